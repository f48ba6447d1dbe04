"""A run that starts from another run of this project: the same logits, heads by their class names, the rest said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cover_jax.checkpoint import init_from, saver
from cover_jax.models import cover
from cover_jax.models.pretrained import loader
from cover_jax.models.pretrained.errors import PretrainedError
from cover_jax.training import train_step
from tests.helpers import small

CLASSES = small.CLASS_NAMES


@pytest.fixture(scope="module", params=["linear", "mlp"])
def run(request, tmp_path_factory):
    """(workdir, config, parameters) of a run whose newest checkpoint is that of step 7."""
    config = small.config(model__head=request.param)
    workdir = tmp_path_factory.mktemp("run")
    shapes = jax.eval_shape(model(config.model, CLASSES).init, jax.random.key(0))
    params = jax.tree.map(jnp.asarray, small_params(shapes))
    counter = jnp.zeros((), jnp.int32)
    state = train_step.TrainState(counter + 7, params, {"trace": params}, {}, counter, counter)
    with saver.open_manager(str(workdir), 2, "mean_top1", 60) as manager:
        meta = {"heads": {name: list(names) for name, names in CLASSES.items()}, "config": config.to_dict()}
        saver.start_save(manager, state, meta, {"mean_top1": 1.0})
    return str(workdir), config, params


def small_params(shapes):
    """Heads start at zero, which would hide a mistake."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32), shapes)


def model(config, class_names):
    return cover.functional(config, {name: len(names) for name, names in class_names.items()})


def start(workdir, config, class_names):
    """The new run's (model, parameters, what was loaded), from parameters of zero."""
    own = model(config, class_names)
    shapes = jax.eval_shape(own.init, jax.random.key(0))
    loaded = init_from.load(workdir, config, class_names)
    params, _ = loader.fill(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes), loaded)
    return own, params, loaded


def test_the_same_logits_class_by_class(run):
    workdir, config, params = run
    frames = np.random.default_rng(1).standard_normal((2, 2, 8, 8, 3), np.float32)
    new = {"mine": ("up", "left"), "other": ("up", "down")}
    own, found, loaded = start(workdir, config.model, new)
    expected = jax.jit(model(config.model, CLASSES).apply, static_argnums=2)(params, frames, "video")
    logits = jax.jit(own.apply, static_argnums=2)(found, frames, "mine")
    np.testing.assert_allclose(logits, expected[:, [CLASSES["video"].index(name) for name in new["mine"]]], atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, found["backbone"], params["backbone"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(found["heads"]["other"]))
    assert loaded.report == (
        f"initialised from {workdir}: a run of this project, step 7",
        "head mine: taken over from head video, all 2 classes by name",
        "head other: new",
        "not taken: head images: no head here has its classes",
    )


def test_of_heads_with_the_same_classes_that_of_the_same_name():
    assert init_from._source({"a": ["1", "2"], "b": ["1", "2"]}, "b", ["2"]) == "b"
    assert init_from._source({"a": ["1", "2"], "b": ["1", "2"]}, "c", ["2"]) == "a"


def test_a_head_of_another_kind_is_new(run):
    workdir, config, _ = run
    other = config.model.copy_and_resolve_references()
    other.head = {"linear": "mlp", "mlp": "linear"}[config.model.head]
    _, _, loaded = start(workdir, other, CLASSES)
    assert not any(path.startswith("heads/") for path in loaded.params)
    assert f"not taken: head video: config.model.head={config.model.head!r} there" in loaded.report


def test_another_size_of_picture_and_clip(run):
    workdir, config, _ = run
    other = config.model.copy_and_resolve_references()
    other.update({"size_px": 16, "num_frames": 4, "pixel_mean": (0.4, 0.5, 0.6)})
    _, params, loaded = start(workdir, other, CLASSES)
    assert params["backbone"]["pos_embed"].shape == (1, 17, 64)
    assert params["backbone"]["time_embed"].shape == (1, 4, 64)
    said = {"pos_embed: resized from 5 to 17 tokens", "time_embed: resized from 2 to 4 tokens",
            "config.model.pixel_mean=(0.4, 0.5, 0.6): the source has (0.5, 0.5, 0.5)"}  # fmt: skip
    assert said <= set(loaded.report)


def test_another_variant_is_refused_with_the_right_one(run):
    workdir, config, _ = run
    other = config.model.copy_and_resolve_references()
    other.variant = "mu/8"
    with pytest.raises(PretrainedError, match="is not mu/8; use config.model.variant='mu/4'"):
        init_from.load(workdir, other, CLASSES)


def test_a_run_without_a_checkpoint_and_other_weights(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(PretrainedError, match="no checkpoint yet"):
        init_from.load(str(tmp_path), small.config().model, CLASSES)
    with pytest.raises(PretrainedError, match="no such file"):
        init_from.load(str(tmp_path / "model.npz"), small.config().model, CLASSES)
