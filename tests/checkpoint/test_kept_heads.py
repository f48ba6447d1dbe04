"""A dataset is added to a trained model as another head; the heads that were there stay as they are."""

import copy
import json
import shutil

import jax
import numpy as np
import pytest

from configs import demo
from cover_jax.checkpoint import kept_heads, restore
from cover_jax.config import checks
from cover_jax.errors import ConfigError
from cover_jax.export import formats
from cover_jax.models import cover
from cover_jax.models.pretrained import loader
from cover_jax.predict.predictor import load_predictor
from cover_jax.training import loop
from cover_jax.training.run import Run
from data_pipelines.builders import digits
from data_pipelines.prepare import build
from tests.helpers import small


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    small_digits = {config: {split: n // 20 for split, n in splits.items()} for config, splits in digits.CLIPS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "CLIPS", small_digits)
        for config in digits.CLIPS:
            build.prepare_if_self_contained(f"digits/{config}", str(folder))
    return str(folder)


def config_of(data_dir, *names: str, **model):
    """The demo's config with these of its datasets, for two steps."""
    config = demo.get_config()
    for name in set(config.datasets) - set(names):
        del config.datasets[name]
    config.update({"steps": 2, "checkpoint_every_steps": 1, "data_dir": data_dir, "best_metric": f"{names[0]}/top1"})
    config.optimizer.update({"warmup_steps": 0, "learning_rate": 0.1, "weight_decay": 0.1, "ema_decay": 0.9})
    config.model.update(model)
    return config


@pytest.fixture(scope="module")
def first(data_dir, tmp_path_factory):
    """The workdir of a run on two datasets."""
    workdir = str(tmp_path_factory.mktemp("first"))
    loop.train(config_of(data_dir, "motion", "appearance"), workdir)
    return workdir


def added(data_dir, source, **optimizer):
    config = config_of(data_dir, "images", init_from=source, keep_heads=True)
    config.optimizer.update(optimizer)
    return config


@pytest.fixture(scope="module")
def second(data_dir, first, tmp_path_factory):
    """The workdir of a run that adds a third to it, with a frozen backbone."""
    workdir = str(tmp_path_factory.mktemp("second"))
    loop.train(added(data_dir, first, frozen="backbone/.*"), workdir)
    return workdir


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.mark.slow
def test_before_training_kept_heads_are_those_of_the_run(data_dir, first, tmp_path):
    run = Run(added(data_dir, first), str(tmp_path))
    params, before = run.restore_or_init()[0].params, restore.load_trained(first)
    equal(params["backbone"], before.params["backbone"])
    for head in ("motion", "appearance"):
        equal(params["heads"][head], before.params["heads"][head])
        assert run.setup.class_names[head] == tuple(before.class_names[head])
    equal(params["heads"]["images"], before.params["heads"]["appearance"])  # new, and of the same ten digits


@pytest.mark.slow
def test_with_a_frozen_backbone_logits_stay_bit_for_bit(first, second):
    before, after = restore.load_trained(first), restore.load_trained(second)
    was = before.params["heads"]["appearance"]["kernel"]
    assert np.any(after.params["heads"]["images"]["kernel"] != was), "nothing was trained"
    frames = np.random.default_rng(0).standard_normal((3, 4, 16, 16, 3), np.float32)
    num_classes = {head: len(names) for head, names in after.class_names.items()}
    apply = jax.jit(cover.functional(after.config.model, num_classes).apply, static_argnums=2)
    for head in ("motion", "appearance"):
        equal(apply(after.params, frames, head), apply(before.params, frames, head))


@pytest.mark.slow
def test_all_heads_predict_with_their_class_names(first, second):
    frames = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), np.uint8)
    before, after = (load_predictor(workdir) for workdir in (first, second))
    said = after(frames)
    assert set(said) == {"motion", "appearance", "images"}
    assert after.views["motion"] == before.views["motion"]
    for head, prediction in before(frames).items():
        assert said[head].class_names == prediction.class_names
        np.testing.assert_array_equal(said[head].probabilities, prediction.probabilities)


@pytest.mark.slow
def test_a_kept_head_is_exported(second, tmp_path):
    trained = restore.load_trained(second)
    formats.to_hugging_face(trained, "motion", str(tmp_path))
    loaded = loader.load(str(tmp_path), trained.config.model, {"motion": trained.class_names["motion"]})
    np.testing.assert_array_equal(loaded.params["heads/motion/kernel"], trained.params["heads"]["motion"]["kernel"])


@pytest.mark.slow
def test_it_goes_on_without_the_run_that_it_came_from(data_dir, first, second, tmp_path, capsys):
    workdir = shutil.copytree(second, tmp_path / "run")
    config = added(data_dir, str(tmp_path / "gone"), frozen="backbone/.*")
    config.steps = 3
    loop.train(config, str(workdir))
    assert f"continuing from {workdir}/checkpoints/2" in capsys.readouterr().out
    trained = restore.load_trained(str(workdir))
    assert trained.step == 3
    equal(trained.params["heads"]["motion"], restore.load_trained(first).params["heads"]["motion"])


@pytest.mark.slow
def test_a_trained_backbone_moves_no_kept_head(data_dir, first, tmp_path):
    """Neither by weight decay nor by momentum nor in the average."""
    state = loop.train(added(data_dir, first, frozen=""), str(tmp_path))
    before = restore.load_trained(first).params
    for params in (state.params, state.ema):
        equal(params["heads"]["motion"], before["heads"]["motion"])
        assert np.any(params["backbone"]["cls_token"] != before["backbone"]["cls_token"])
    moments = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)]
    assert any("'images'" in path for path in moments) and not any("'motion'" in path for path in moments)


META = {"heads": {"video": ["left", "right", "up"], "images": list("abcde")}, "config": small.config().to_dict()}
CLASSES = {"new": ("a", "b")}


def keep(tmp_path, monkeypatch, class_names=CLASSES, meta=META, **model):
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(restore, "about", lambda workdir, which: (7, json.loads(json.dumps(meta)), {}))
    config = small.config(model__init_from=str(tmp_path), model__keep_heads=True)
    config.model.update(model)
    return kept_heads.find_kept_heads(config, None, class_names)


def test_heads_that_were_kept_before_are_kept_again(tmp_path, monkeypatch):
    older = {"builder": "none/older"}
    meta = META | {"heads": META["heads"] | {"older": ["x", "y"]}, "kept": {"older": older}}
    kept = keep(tmp_path, monkeypatch, meta=meta)
    assert {name: head.class_names for name, head in kept.items()} == {
        "video": ("left", "right", "up"), "images": tuple("abcde"), "older": ("x", "y"),
    }  # fmt: skip
    assert kept["older"].dataset == older
    assert kept["video"].dataset["builder"] == "none/video"


def test_a_dataset_of_a_heads_name_and_classes_trains_that_head(tmp_path, monkeypatch):
    assert set(keep(tmp_path, monkeypatch, {"video": ("up", "left", "right")})) == {"images"}


def of_several_labels() -> dict:
    """META, but the head `video` may have several labels."""
    meta = copy.deepcopy(META)
    meta["config"]["datasets"]["video"]["task"] = "multilabel"
    return meta


def test_a_dataset_of_a_heads_name_with_another_task_is_refused(tmp_path, monkeypatch):
    several = of_several_labels()
    says = r"config.datasets.video.task='multiclass': .* has a head of this name with the task 'multilabel'"
    with pytest.raises(ConfigError, match=says):
        keep(tmp_path, monkeypatch, {"video": ("up", "left", "right")}, meta=several)


def test_a_kept_head_carries_its_task(tmp_path, monkeypatch):
    assert keep(tmp_path, monkeypatch, meta=of_several_labels())["video"].dataset["task"] == "multilabel"


def test_a_dataset_of_a_heads_name_with_other_classes_is_refused(tmp_path, monkeypatch):
    says = r"config.datasets.video: .* other classes \(3 there, 2 here; one of them alone has 'right'\)"
    with pytest.raises(ConfigError, match=says):
        keep(tmp_path, monkeypatch, {"video": ("up", "left")})


def test_another_model_is_refused_with_the_flags_to_set(tmp_path, monkeypatch):
    says = r"that they were trained with: --config.model.num_frames=2 --config.model.pixel_std='\(0.5, 0.5, 0.5\)'"
    with pytest.raises(ConfigError, match=says):
        keep(tmp_path, monkeypatch, num_frames=4, pixel_std=(0.2, 0.2, 0.2), remat="none")


@pytest.mark.parametrize("source", ["hf://org/vit", "/none/model.npz"])
def test_other_weights_have_no_heads_to_keep(source, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=f"keep_heads: nothing to keep in {source}: it is not the --workdir"):
        keep(tmp_path, monkeypatch, init_from=source)


def test_nothing_is_kept_unless_asked_for(tmp_path, monkeypatch):
    assert keep(tmp_path, monkeypatch, keep_heads=False) == {}


def test_heads_are_kept_from_somewhere():
    with pytest.raises(ConfigError, match="keep_heads=True: needs config.model.init_from"):
        checks.validate(small.config(model__keep_heads=True))
