"""A trained model as others use it gives the same logits, and comes back bit for bit."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from configs import common, demo
from cover_jax.checkpoint import metadata, restore, saver
from cover_jax.export import formats
from cover_jax.models import cover, variants
from cover_jax.models.pretrained import hugging_face_export, loader
from cover_jax.models.pretrained.errors import PretrainedError
from cover_jax.training import train_step
from cover_jax.training.run import Run
from tests.models import small

HEADS = {"motion": ["left", "right", "up"], "images": ["0", "1"]}
HUGGING_FACE = pathlib.Path(__file__).parents[1] / "models" / "golden" / "pretrained" / "hf_timesformer"


@pytest.fixture(scope="module")
def trained():
    config = common.get_config()
    config.model = small.config(size_px=16, num_frames=4)
    config.datasets = {name: common.dataset() for name in HEADS}
    model = cover.functional(config.model, {name: len(classes) for name, classes in HEADS.items()})
    params = small.random_params(jax.eval_shape(model.init, jax.random.key(0)))
    params = jax.tree.map(lambda array: array.astype(np.float32), params)
    return metadata.TrainedModel(config, HEADS, params, step=7)


def zeros(model):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(model.init, jax.random.key(0)))


def logits(trained, frames, head):
    model = cover.functional(trained.config.model, {name: len(classes) for name, classes in HEADS.items()})
    return jax.jit(model.apply, static_argnums=2)(trained.params, frames, head)


def test_hugging_face_and_back_bit_for_bit(trained, tmp_path):
    formats.to_hugging_face(trained, "motion", str(tmp_path))
    model = cover.functional(trained.config.model, {"mine": 3})
    loaded = loader.load(str(tmp_path), trained.config.model, {"mine": HEADS["motion"]})
    params, kept = loader.fill(zeros(model), loaded)
    expected = {"backbone": trained.params["backbone"], "heads": {"mine": trained.params["heads"]["motion"]}}
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert not kept
    assert loaded.class_names == tuple(HEADS["motion"])


def test_another_gelu_and_epsilon_come_back(trained, tmp_path):
    config = trained.config.copy_and_resolve_references()
    config.model.update({"gelu": "tanh", "layer_norm_eps": 1e-5})
    formats.to_hugging_face(dataclasses.replace(trained, config=config), "motion", str(tmp_path))
    said = loader.load(str(tmp_path), trained.config.model, {}).report
    assert "config.model.gelu='exact': the source has 'tanh'" in said
    assert "config.model.layer_norm_eps=1e-06: the source has 1e-05" in said
    assert not any("the source has" in line for line in loader.load(str(tmp_path), config.model, {}).report)


def test_names_and_config_are_those_that_hugging_face_writes(monkeypatch, tmp_path):
    """From a file that its own code wrote, back to the same file."""
    monkeypatch.setitem(variants.SIZES, "golden", (32, 2, 4, 64))
    config = common.get_config()
    config.model = small.config(variant="golden/4", size_px=12, num_frames=3)
    config.datasets.own = common.dataset()
    theirs = json.loads((HUGGING_FACE / "config.json").read_text())
    names = list(theirs["id2label"].values())
    model = cover.functional(config.model, {"own": len(names)})
    loaded = loader.load(str(HUGGING_FACE), config.model, {"own": names})
    params, _ = loader.fill(zeros(model), loaded)
    formats.to_hugging_face(metadata.TrainedModel(config, {"own": names}, params, 0), "own", str(tmp_path))

    written, expected = (
        safetensors.numpy.load_file(folder / "model.safetensors") for folder in (tmp_path, HUGGING_FACE)
    )
    assert written.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(written[name], array, err_msg=name)
    ours = json.loads((tmp_path / "config.json").read_text())
    del ours["label2id"]  # theirs follows from id2label, and was left open
    assert {key: theirs[key] for key in ours} == ours


def test_a_head_that_hugging_face_has_not_is_refused(trained):
    for leaves in ({"logits": {}, "pre_logits": {}}, {"logits": {}, "pool": {}}):  # 'mlp', 'attentive'
        params = trained.params | {"heads": {"motion": leaves}}
        with pytest.raises(PretrainedError, match="head motion: is not linear .*: a Hugging Face TimeSformer needs"):
            hugging_face_export.tensors(params, "motion", 8)


ELSEWHERE = """
import sys
sys.modules.update({"cover_jax": None, "flax": None})  # not to be imported
import jax, numpy, safetensors.numpy
from jax import export
folder = sys.argv[1]
program = export.deserialize(open(f"{folder}/model.jax_export", "rb").read())
params, frames = safetensors.numpy.load_file(f"{folder}/params.safetensors"), numpy.load(f"{folder}/frames.npy")
for batch in (1, 3):
    numpy.save(f"{folder}/logits_{batch}.npy", program.call(params, frames[:batch]))
"""
IN_TENSORFLOW = """
import sys
sys.modules.update({"cover_jax": None, "flax": None, "jax": None})
import numpy, tensorflow
folder = sys.argv[1]
signature = tensorflow.saved_model.load(folder).signatures["serving_default"]
(spec,) = signature.structured_input_signature[1].values()
assert (spec.name, spec.dtype.name, spec.shape.as_list()) == ("frames", "uint8", [None, 4, 16, 16, 3]), spec
frames = numpy.load(f"{folder}/frames.npy")
for batch in (1, 3):
    numpy.save(f"{folder}/logits_{batch}.npy", signature(frames=tensorflow.constant(frames[:batch]))["logits"])
"""


def test_the_program_runs_without_this_package_for_any_number_of_clips(trained, tmp_path):
    formats.to_jax(trained, "motion", str(tmp_path))
    frames = small.frames(3, 4, 16, 16)
    np.save(tmp_path / "frames.npy", frames)
    expected = logits(trained, frames, "motion")
    _assert_says(ELSEWHERE, tmp_path, expected)
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["class_names"] == HEADS["motion"]
    assert (about["num_frames"], about["size_px"]) == (4, 16)


def test_tensorflow_runs_it_without_jax_for_any_number_of_clips(trained, tmp_path):
    formats.to_saved_model(trained, "motion", str(tmp_path))
    frames = np.random.default_rng(1).integers(0, 256, (3, 4, 16, 16, 3), np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    model = trained.config.model
    expected = logits(trained, (frames / np.float32(255) - model.pixel_mean) / model.pixel_std, "motion")
    _assert_says(IN_TENSORFLOW, tmp_path, expected)
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["class_names"] == HEADS["motion"]
    assert about["frames"] == "uint8, red, green, blue"


@pytest.fixture
def trained_on_standardized(trained):
    config = trained.config.copy_and_resolve_references()
    config.datasets.motion.standardize = True
    return dataclasses.replace(trained, config=config)


def test_a_head_of_standardized_clips_is_refused_where_it_cannot_be_held(trained_on_standardized, tmp_path):
    with pytest.raises(PretrainedError, match="datasets.motion.standardize: .*use --format=jax or saved_model"):
        formats.to_hugging_face(trained_on_standardized, "motion", str(tmp_path))


@pytest.mark.slow
def test_a_head_of_standardized_clips(trained_on_standardized, tmp_path):
    trained = trained_on_standardized
    formats.to_saved_model(trained, "motion", str(tmp_path))
    frames = np.random.default_rng(1).integers(0, 256, (3, 4, 16, 16, 3), np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    centred = frames - frames.mean((1, 2, 3, 4), keepdims=True, dtype=np.float32)
    _assert_says(IN_TENSORFLOW, tmp_path, logits(trained, centred / centred.std((1, 2, 3, 4), keepdims=True), "motion"))


def _assert_says(program, folder, expected):
    """`program` finds the logits of one and of three clips in another process."""
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for batch in (1, 3):
        np.testing.assert_allclose(np.load(folder / f"logits_{batch}.npy"), expected[:batch], atol=1e-5, rtol=0)


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_only_the_parameters_of_a_checkpoint_are_read(trained, ema_decay, tmp_path):
    trained.config.optimizer.ema_decay = ema_decay
    params = jax.tree.map(jnp.asarray, trained.params)
    ema = jax.tree.map(lambda leaf: leaf + 1, params) if ema_decay else {}
    counter = jnp.zeros((), jnp.int32)
    state = train_step.TrainState(counter + 7, params, {"trace": params}, ema, counter, counter)
    meta = {"heads": HEADS, "data": {}, "config": json.loads(trained.config.to_json())}
    with saver.open_manager(str(tmp_path), 2, "mean_top1", 60) as manager:
        saver.start_save(manager, state, meta, {"mean_top1": 1.0})

    found = restore.load_trained(str(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, found.params, jax.device_get(ema or params))
    assert (found.step, found.class_names) == (7, HEADS)
    assert found.config.model.to_dict() == trained.config.model.to_dict()


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoints; is .* the --workdir of a run"):
        restore.load_trained(str(tmp_path))


@pytest.mark.slow
def test_a_run_starts_from_an_exported_model(trained, tmp_path):
    """Parameters, their moving average, and a head whose class names it has."""
    config = demo.get_config()
    for name in ("appearance", "motion"):
        del config.datasets[name]
    digits = [str(digit) for digit in range(10)]
    config.data_dir, config.best_metric, config.optimizer.ema_decay = str(tmp_path), "images/top1", 0.9
    config.model.update({"variant": "mu/8", "num_frames": 4, "init_from": str(tmp_path / "model")})
    own = cover.functional(config.model, {"images": 10})
    params = small.random_params(jax.eval_shape(own.init, jax.random.key(0)))
    params = jax.tree.map(lambda array: array.astype(np.float32), params)
    model = metadata.TrainedModel(config, {"images": digits}, params, step=0)
    formats.to_hugging_face(model, "images", config.model.init_from)

    run = Run(config, str(tmp_path / "work"))
    state, _ = run.restore_or_init()
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), params)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.ema), params)
    assert jax.tree.map(lambda leaf: leaf.sharding, state.params) == run.setup.shardings.params
