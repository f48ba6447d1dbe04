"""Parts of the full-size mix: each valid, built in shapes alone, and like the others in all but what it leaves out."""

import importlib
import pathlib

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from configs import ablations, cover_l
from cover_jax.config import checks
from cover_jax.models import cover
from data_pipelines.stream import mixture

NAMES = sorted(path.stem for path in pathlib.Path(ablations.__path__[0]).glob("k*.py")) + ["ssv2"]
LABELS = {"k400": 400, "k600": 600, "k700": 700, "ssv2": 174, "mit": 305, "imagenet": 1000}
BACKBONE_PARAMETERS = 429.9e6  # as UniFormerV2's tables have it, but for the heads (arXiv 2211.09552)


def config_of(name: str) -> ConfigDict:
    return importlib.import_module(f"configs.ablations.{name}").get_config()


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
