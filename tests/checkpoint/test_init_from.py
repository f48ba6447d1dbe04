"""A run that starts from another run of this project: the same logits, heads by their class names, the rest said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import traverse_util

from cover_jax.checkpoint import init_from, metadata, saver
from cover_jax.models import cover, heads
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
        heads = {name: list(names) for name, names in CLASSES.items()}
        meta = {"heads": heads, "config": config.to_dict(), "data": {}}
        for step, top1 in ((5, 0.9), (7, 0.4)):  # the best is not the newest
            state = state.replace(step=jnp.full((), step, jnp.int32))
            saver.start_save(manager, state, meta, {"mean_top1": top1})
            manager.wait_until_finished()
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


def test_a_head_of_another_task_is_not_taken_over(run):
    workdir, config, _ = run
    new = {"video": CLASSES["video"], "images": CLASSES["images"]}
    loaded = init_from.load(workdir, config.model, new, {"video": "multilabel"})
    assert "head video: new" in loaded.report and "not taken: head video: no head here has its classes" in loaded.report
    assert any(path.startswith("heads/images/") for path in loaded.params)
    assert not any(path.startswith("heads/video/") for path in loaded.params)


def test_of_heads_with_the_same_classes_that_of_the_same_name():
    assert init_from._source({"a": ["1", "2"], "b": ["1", "2"]}, "b", ["2"]) == "b"
    assert init_from._source({"a": ["1", "2"], "b": ["1", "2"]}, "c", ["2"]) == "a"


def test_a_head_of_another_kind_is_new(run):
    workdir, config, _ = run
    other = config.model.copy_and_resolve_references()
    other.head = {"linear": "mlp", "mlp": "attentive"}[config.model.head]
    _, _, loaded = start(workdir, other, CLASSES)
    assert not any(path.startswith("heads/") for path in loaded.params)
    assert f"not taken: head video: it is {config.model.head!r}, and no head here is" in loaded.report


def test_an_attentive_head_is_taken_over_by_one_of_its_size():
    config = small.config(model__head="attentive", datasets__video__head__depth=2)
    spec = heads.HeadSpec.of(config.model, config.datasets.video.head)
    own = cover.functional(config.model, {"video": 3}, {"video": spec})
    params = small_params(jax.eval_shape(own.init, jax.random.key(0)))
    trained = metadata.TrainedModel(config, {"video": list(CLASSES["video"])}, params, step=7)
    found, lines = init_from._heads(trained, {"mine": spec}, {"mine": ("up", "left")}, {})
    assert lines == ["head mine: taken over from head video, all 2 classes by name"]
    leaves = traverse_util.flatten_dict(params["heads"]["video"], sep="/")
    assert {path.removeprefix("heads/mine/") for path in found} == leaves.keys()
    order = [CLASSES["video"].index(name) for name in ("up", "left")]
    for leaf, array in leaves.items():
        expected = array[..., order] if leaf.startswith("logits/") else array
        np.testing.assert_array_equal(found[f"heads/mine/{leaf}"], expected, err_msg=leaf)
    other = heads.HeadSpec("attentive", depth=3)
    assert init_from._heads(trained, {"mine": other}, {"mine": ("up", "left")}, {}) == (
        {}, ["head mine: new", "not taken: head video: it is 'attentive' (depth 2, num_heads 0), and no head here is"],
    )  # fmt: skip


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
    with pytest.raises(PretrainedError, match="config.model.variant='mu/8'; use config.model.variant='mu/4'"):
        init_from.load(workdir, other, CLASSES)


def test_a_run_without_a_checkpoint_and_other_weights(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(PretrainedError, match="no checkpoint yet"):
        init_from.load(str(tmp_path), small.config().model, CLASSES)
    with pytest.raises(PretrainedError, match="no such file"):
        init_from.load(str(tmp_path / "model.npz"), small.config().model, CLASSES)


@pytest.mark.parametrize(("suffix", "step"), [("", 7), ("@newest", 7), ("@best", 5), ("@5", 5), ("/@7", 7)])
def test_a_checkpoint_of_a_run_is_named_after_an_at(run, suffix, step):
    workdir, config, _ = run
    assert init_from.load(workdir + suffix, config.model, CLASSES).report[0].endswith(f"step {step}")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{run}@bset", r"@bset: .*no step bset; must be one of newest, best, 7, 5$"),
        ("{run}@6", r"@6: .*no step 6; must be one of newest, best, 7, 5$"),
        ("{empty}@best", r"@best: .* is not the --workdir of a run: it has no folder checkpoints$"),
        ("{empty}/model@v2.npz", r"model@v2.npz: no such file$"),
    ],
)
def test_what_is_not_there_is_named(run, tmp_path, source, said):
    workdir, config, _ = run
    with pytest.raises(PretrainedError, match=said):
        init_from.load(source.format(run=workdir, empty=tmp_path), config.model, CLASSES)


def test_a_folder_may_have_an_at_in_its_name(run, tmp_path):
    workdir, config, _ = run
    (tmp_path / "run@best").symlink_to(workdir)
    assert init_from.load(str(tmp_path / "run@best"), config.model, CLASSES).report[0].endswith("step 7")


def test_the_best_of_a_run_without_evaluations_is_refused(run, monkeypatch):
    workdir, config, _ = run
    restore = init_from.restore
    sound = {step: restore.integrity.read_meta(epath.Path(workdir) / "checkpoints" / step) for step in ("5", "7")}
    monkeypatch.setattr(restore.integrity, "read_meta", lambda folder: sound[folder.name])
    monkeypatch.setattr(restore.layout, "read_accuracies", lambda folder: {})
    with pytest.raises(PretrainedError, match=f"no checkpoint there was evaluated; name one: {workdir}@7$"):
        init_from.load(f"{workdir}@best", config.model, CLASSES)


def test_hosts_that_see_different_checkpoints_are_told_so(run, monkeypatch):
    workdir, config, _ = run
    monkeypatch.setattr(init_from.hosts, "exchange", lambda mine: [mine, "8"])
    with pytest.raises(PretrainedError, match=f"hosts read different steps, 7, 8; name one: {workdir}@7$"):
        init_from.load(workdir, config.model, CLASSES)
