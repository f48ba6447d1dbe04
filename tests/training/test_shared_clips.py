"""Heads on the same clips: decoded once, one pass of the backbone, and each trained as if it were alone."""

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from cover_jax.config import checks
from cover_jax.errors import ConfigError
from cover_jax.models import flops
from cover_jax.report import __main__ as report
from cover_jax.tasks import metrics, registry
from cover_jax.training import loop
from data_pipelines.stream import mixture, pipeline
from tests.helpers import small, tiny_run

ALONE = {"optimizer__frozen": "backbone/.*", "optimizer__clip_norm": 0.0, "plan": "joint", "model__drop_path": 0.0}
RATES = {"images": 2.0, "video": 0.5}


def config_of(shared: bool) -> ConfigDict:
    """Two heads of five and three classes, both on clips of two frames."""
    config = small.config(**ALONE)
    config.datasets.images.num_frames = 2
    for name, rate in RATES.items():
        config.datasets[name].head.learning_rate_scale = rate
    config.datasets.video.builder = config.datasets.images.builder
    config.datasets.video.same_clips_as = "images" if shared else ""
    return config


def test_heads_on_the_same_clips_learn_what_they_learn_alone_in_one_pass(monkeypatch):
    """Bit for bit, with one example of weight 0; at little more than half of the operations."""
    monkeypatch.setattr(small, "CLASS_NAMES", dict.fromkeys(RATES, tuple("abcde")))
    trained, cost = {}, {}
    for shared in (False, True):
        config = config_of(shared)
        trainer, names = small.Trainer(config), ["images"] if shared else ["images", "video"]
        batch = small.batch(config, "images")
        batch["weight"][3] = 0.0
        put = dict.fromkeys(names, trainer.put(batch))
        assert trainer.setup.train_batches(("images", "video")).keys() == put.keys()
        step, state = trainer.jitted.lower(trainer.state, put).compile(), trainer.state
        for _ in range(2):
            state, measured = step(state, put)
        assert measured["undecodable"].keys() == put.keys()
        trained[shared] = jax.device_get((state.params, {name: measured[f"{name}/loss"] for name in RATES}))
        cost[shared] = step.cost_analysis()["flops"]
    for one, other in zip(*map(jax.tree.leaves, trained.values()), strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.any(trained[True][0]["heads"]["video"]["kernel"])
    assert cost[True] < 0.6 * cost[False]
    assert flops.train_step(config_of(True), "video", trains_backbone=False) == 0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("plan", "interleave", "config.plan='interleave' has one dataset per step; it must be 'joint'"),
        ("datasets.video.batch_size", 16, "config.datasets.video.batch_size=16: .* has 8; they must be equal"),
        ("datasets.video.augment.flip", "never", "config.datasets.video.augment.flip='never': .* has 'swap'"),
        ("datasets.video.same_clips_as", "video", "must be one of the datasets with clips of their own: images"),
        ("datasets.images.same_clips_as", "video", "must be one of the datasets with clips of their own: none"),
    ],
)
def test_what_cannot_be_shared_is_refused(key, value, message):
    config = config_of(True)
    checks.validate(config)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ConfigError, match=message):
        checks.validate(config)


def test_the_best_head_is_one_of_those_that_share_their_clips():
    assert registry.bests(config_of(False)) == {}
    (names,) = registry.bests(config_of(True)).values()
    scalars = {"images/top1": 0.5, "video/top1": 0.75, "images/top1_error": 0.1, "video/top1_error": 0.2}
    found = metrics.with_bests(scalars, {"best_top1": names})
    assert (found["best_top1"], found["best_top1_error"]) == (0.75, 0.2)
    assert metrics.best_head_line(scalars, names).startswith("best head: video, top1 75.0 ± 20.0%; chosen of 2")


@pytest.mark.slow
def test_a_whole_run_reads_once_measures_knn_and_names_the_best_head(tmp_path, monkeypatch, capsys):
    """best_metric is kNN's: equal at every evaluation of a frozen backbone, so the latest checkpoint is the best."""
    tiny_run.prepare_data(tmp_path / "data")
    config = tiny_run.config(tmp_path / "data", keep=("images",), steps=4, eval_every_steps=2)
    config.update_from_flattened_dict({"optimizer.frozen": "backbone/.*", "optimizer.clip_norm": 0.0, "plan": "joint"})
    config.evaluators, config.knn.neighbours = ("accuracy", "knn"), 3
    config.datasets.images.eval_split = "validation"
    for name, kind in (("slow", "linear"), ("tokens", "attentive")):
        config.datasets[name] = config.datasets.images.copy_and_resolve_references()
        config.datasets[name].head.update({"kind": kind, "depth": 1, "learning_rate_scale": 0.1})
        config.datasets[name].same_clips_as = "images"
    config.best_metric = "tokens/knn_top1"
    checks.validate(config)
    opened: list[str] = []
    train_stream = pipeline.train_stream
    monkeypatch.setattr(
        pipeline,
        "train_stream",
        lambda *args, name, **rest: opened.append(name) or train_stream(*args, name=name, **rest),
    )
    loop.train(config, str(tmp_path / "run"))
    said = capsys.readouterr().out
    assert opened == ["images"] == list(mixture.by_clip_source(config.datasets))
    assert said.count("best head: ") == 2 and "knn top1" in said
    assert "best checkpoint: step 4, tokens/knn_top1 " in said
    report.main([f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'page.html'}"])
    assert "chosen of 3 on these examples" in (tmp_path / "page.html").read_text()

    config.best_metric, config.steps = "best_top1", 6
    loop.train(config, str(tmp_path / "run"))
    said = capsys.readouterr().out
    best = said.partition("best head: ")[2].partition(",")[0]
    assert f"best_top1 ({best}) " in said
