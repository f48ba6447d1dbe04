"""The card beside an exported model: what it says, and that its program runs."""

import importlib.util
import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from huggingface_hub import ModelCard

from configs import common, datasets
from cover_jax.checkpoint import metadata, restore, saver
from cover_jax.export import __main__ as export
from cover_jax.export import model_card
from cover_jax.models import cover
from cover_jax.training import train_step
from tests.models import small

HEADS = {"motion": ["left | right", "<i>up</i>", "_down_"], "images": ["0", "1"], "dark": ["a", "b"]}
ACCURACIES = {"motion/top1": 0.75, "motion/top5": 1.0, "motion/mean_class": 0.7256, "motion/examples": 40,
              "motion/mean_class_error": 0.071}  # fmt: skip
LEAK = {
    "validation": "motion", "training": "images", "validation_examples": 2, "training_examples": 3, "by_origin": 0,
    "by_file": 3, "by_content": 0, "other_moments": 0, "unchecked": "",
}  # fmt: skip
FORMATS = export.FORMATS
NEEDS = {"hugging_face": "transformers", "jax": "jax", "saved_model": "tensorflow"}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run whose newest checkpoint was evaluated on one of its two datasets."""
    folder, config = tmp_path_factory.mktemp("run"), common.get_config()
    config.model = small.config(size_px=16, num_frames=4)
    config.model.init_from = "hf://somebody/some-model@main"
    config.data_dir, config.compare_with = "/home/me/data", "/home/me/runs/before"
    config.datasets.motion = datasets.digits("motion", eval_clips=2)
    config.datasets.images = datasets.digits("images")
    config.datasets.dark = datasets.digits("images", standardize=True)
    model = cover.functional(config.model, {name: len(classes) for name, classes in HEADS.items()})
    params = jax.tree.map(jnp.asarray, small.random_params(jax.eval_shape(model.init, jax.random.key(0))))
    about = {"examples": 4, "excluded": 0, "fingerprint": "", "manifest": {"train": dict(
        listed=6, found=4, missing=2, refused=0, damaged=0)}}  # fmt: skip
    data = {name: {"builder": config.datasets[name].builder, **about} for name in HEADS}
    meta = {"heads": HEADS, "data": data, "leaks": [LEAK], "config": json.loads(config.to_json()),
            "versions": metadata.versions()}  # fmt: skip
    zero = jnp.zeros((), jnp.int32)
    state = train_step.TrainState(zero + 7, params, {}, {}, zero, zero)
    with saver.open_manager(str(folder), 2, "mean_top1", 60) as manager:
        saver.start_save(manager, state, meta, ACCURACIES)
    return folder


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    """(head, format) -> the folder that the command writes."""

    def run(head, model_format):
        out = tmp_path_factory.mktemp(f"{head}_{model_format}")
        run_export(workdir, head, model_format, out)
        return out

    return run


def run_export(workdir, head, model_format, out):
    export.main([f"--workdir={workdir}", f"--head={head}", f"--format={model_format}", f"--out={out}"])


def test_where_nothing_can_be_written_is_named(workdir, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(SystemExit, match="error: .*taken: File exists"):
        run_export(workdir, "motion", "hugging_face", tmp_path / "taken")


def test_every_format_has_a_card():
    assert set(FORMATS) == set(model_card.FORMATS) == set(model_card.LOADING)


@pytest.mark.parametrize("model_format", FORMATS)
def test_the_program_on_the_card_runs_as_it_is(model_format, exported, workdir):
    mean, std = (restore.load_trained(str(workdir)).config.model[key] for key in ("pixel_mean", "pixel_std"))
    _assert_runs("motion", model_format, exported, workdir, np.float32(-np.array(mean) / std))


@pytest.mark.parametrize("model_format", ["jax", pytest.param("saved_model", marks=pytest.mark.slow)])
def test_so_does_that_of_a_head_of_standardized_clips(model_format, exported, workdir):
    _assert_runs("dark", model_format, exported, workdir, np.zeros(3, np.float32))


def _assert_runs(head, model_format, exported, workdir, black):
    """The card's program says of a black clip what the model does, to which it is the colour `black`."""
    out = exported(head, model_format)
    (code,) = re.findall(r"```python\n(.*?)```", (out / model_card.FILE).read_text(), re.DOTALL)
    compile(code, "card", "exec")
    if importlib.util.find_spec(NEEDS[model_format]) is None:
        pytest.skip(f"{NEEDS[model_format]} is not installed: the program was only compiled")
    done = subprocess.run([sys.executable, "-c", code], cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    trained = restore.load_trained(str(workdir))
    model = cover.functional(trained.config.model, {name: len(classes) for name, classes in HEADS.items()})
    frames = np.broadcast_to(black, (1, 4, 16, 16, 3))
    probabilities = jax.nn.softmax(model.apply(trained.params, frames, head))[0]
    name, _, probability = done.stdout.strip().rpartition(" ")
    assert name == HEADS[head][int(np.argmax(probabilities))]
    assert float(probability) == pytest.approx(float(np.max(probabilities)), abs=1e-4)


def test_what_the_card_says(exported):
    said = re.sub(" +", " ", (exported("motion", "jax") / model_card.FILE).read_text())  # tables are aligned
    assert said.startswith("# motion: CoVeR mu/8\n")
    assert "for 7 steps on motion, together with dark, images" in said and "with 3 classes" in said
    assert "On `validation` of digits/motion, 40 examples, the mean of 2 views of each:" in said
    for row in ("| top-1 | 75.0 ± 6.8% |", "| mean over classes | 72.6 ± 7.1% |", "| chance | 33.3% |"):
        assert row in said
    assert (
        "top-5" not in said and "± one standard error over validation examples, as if these were independent." in said
    )
    assert "| motion | digits/motion | 4 | 0 | train 4 of 6 listed (2 missing) |" in said
    assert "- leaks: 2 validation examples of motion are also 3 training examples of images (3 by file)" in said
    assert '| `model.variant` | `"mu/8"` | `"B/16"` |' in said
    assert "/home/me" not in said, "where data stood is nobody's business"
    assert r"0. left \| right" in said and r"1. \<i\>up\</i\>" in said and r"2. \_down\_" in said
    assert "A clip is 4 frames: the middle frame of each of 4 equal parts of a video." in said
    assert f"| jax | {jax.__version__} |" in said


def test_a_head_that_was_not_evaluated_or_sees_other_frames(exported):
    said = (exported("images", "jax") / model_card.FILE).read_text()
    assert "Not known: the checkpoint of step 7 was not evaluated on images." in said
    assert "An image is repeated 4 times." in said
    assert "- Its head was trained on clips of 1 frames, not of 4." in said


def test_the_hub_can_read_the_front_matter(exported):
    card = ModelCard.load(exported("motion", "hugging_face") / model_card.FILE)
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "video-classification")
    assert (card.data.base_model, card.data.model_name) == ("somebody/some-model", "motion")
    found = {result.metric_name: (result.dataset_type, result.metric_value) for result in card.data.eval_results}
    assert found["top-1"] == ("digits/motion", 0.75) and found["mean over classes"] == ("digits/motion", 0.7256)
    other = ModelCard.load(exported("images", "hugging_face") / model_card.FILE)
    assert other.data.eval_results is None and "Images are clips of one frame." in other.content
