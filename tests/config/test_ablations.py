"""Parts of the full-size mix: each valid, built in shapes alone, and like the others in all but what it leaves out."""

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from configs import ablations, cover_l
from cover_jax.config import checks, flags
from cover_jax.models import cover
from data_pipelines.stream import mixture

WHOLE = "ssv2_mit_imagenet"
NAMES = ["k400", "k400_imagenet", "k400_ssv2", "k400_ssv2_mit", f"k400_{WHOLE}", "k600", f"k600_{WHOLE}", "k700",
         f"k700_{WHOLE}", "ssv2"]  # fmt: skip
LABELS = {"k400": 400, "k600": 600, "k700": 700, "ssv2": 174, "mit": 305, "imagenet": 1000}
BACKBONE_PARAMETERS = 429.9e6  # as UniFormerV2's tables have it, but for the heads (arXiv 2211.09552)


def config_of(name: str) -> ConfigDict:
    return ablations.get_config(name)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_run_of_the_datasets_in_its_name(name):
    config = config_of(name)
    checks.validate(config)
    assert set(config.datasets) == set(name.split("_"))


@pytest.mark.parametrize("name", NAMES)
def test_it_has_the_logits_of_all_its_datasets(name):
    config = config_of(name)
    model = cover.functional(config.model, {dataset: LABELS[dataset] for dataset in config.datasets})
    params = jax.eval_shape(model.init, jax.random.key(0))
    size = sum(leaf.size for leaf in jax.tree.leaves(params["backbone"]))
    assert size == pytest.approx(BACKBONE_PARAMETERS, rel=1e-3)
    for dataset, one in config.datasets.items():
        frames = jax.ShapeDtypeStruct((2, one.num_frames, config.model.size_px, config.model.size_px, 3), jnp.float32)
        logits = jax.eval_shape(lambda p, x, head=dataset: model.apply(p, x, head=head), params, frames)
        assert logits.shape == (2, LABELS[dataset]), dataset


@pytest.mark.parametrize("name", NAMES)
def test_a_dataset_that_stays_keeps_its_number_of_steps(name):
    config = config_of(name)
    kinetics = next((part for part in name.split("_") if part in cover_l.KINETICS), "k400")
    whole = cover_l.get_config(kinetics)
    assert steps_of(config) == {dataset: steps_of(whole)[dataset] for dataset in config.datasets}


def steps_of(config: ConfigDict) -> dict[str, int]:
    mix = mixture.Mixture({name: one.weight for name, one in config.datasets.items()}, config.plan, config.seed)
    return mix.counts(config.steps)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_else_differs(name):
    kinetics = next((part for part in name.split("_") if part in cover_l.KINETICS), "k400")
    whole, part = (dict(checks.flatten(config)) for config in (cover_l.get_config(kinetics), config_of(name)))
    differing = {key for key in part if part[key] != whole[key]}
    assert differing <= {"steps", "optimizer.warmup_steps"}


# ml_collections 1.1 loads a config file that way; Python means to drop it.
@pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_the_files_of_before_are_found_by_their_names(name):
    before, now = flags.load(f"configs/ablations/{name}.py"), ablations.get_config(name)
    assert before.to_json() == now.to_json()


def test_the_words_of_cover_l_may_follow():
    config = ablations.get_config("k600_mit,stage1,mit339")
    assert {name: dataset.builder for name, dataset in config.datasets.items()} == {
        "k600": "kinetics/600", "mit": "moments_in_time/339",
    }  # fmt: skip
    assert config.steps == 50_100 + 59_820 and config.model.size_px == 224


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("", ": nothing: must be some of"),
        ("k400_ucf101", ": ucf101: must be some of imagenet, k400, mit, ssv2, joined by _"),
        ("k400_k600", "at most one word of each"),
        ("k400,k600", "at most one word of each"),
    ],
)
def test_what_is_no_part_is_refused(argument, said):
    with pytest.raises(ValueError, match=rf"^configs/ablations.py:.*{said}"):
        ablations.get_config(argument)
