"""A run chooses the canvases that its config leaves to it, and says how much frames are enlarged."""

import json
import types

import numpy as np

from configs import common
from cover_jax.training import inputs, progress
from cover_jax.training import run as run_module
from cover_jax.training.run import Run
from tests.helpers import tiny_run


def test_a_run_chooses_the_canvas_from_its_records_and_the_dtype_from_its_devices(tmp_path, capsys):
    tiny_run.prepare_data(tmp_path)
    config = tiny_run.config(tmp_path, model__size_px=32, model__dtype="auto", datasets__motion__canvas_px=(0, 0))
    config.datasets.images.canvas_px = (20, 24)
    run = Run(config, str(tmp_path / "run"))
    assert "config.model.dtype='auto': float32 on cpu" in capsys.readouterr().out
    assert run.config.model.dtype == run.meta["config"]["model"]["dtype"] == "float32"
    assert run.config.datasets.motion.canvas_px == (16, 16)  # as stored
    assert run.config.datasets.images.canvas_px == (20, 24)  # as given
    assert run.setup.train_batch("motion")["frames"].shape == (8, 4, 16, 16, 3)
    assert run.meta["config"]["datasets"]["motion"]["canvas_px"] == [16, 16]
    state, history = run.restore_or_init()
    capsys.readouterr()
    progress.describe_run(run, state, history.batch_schedule)
    said = capsys.readouterr().out
    for name, measured in (("motion", "2 in training, 2 in evaluation"), ("images", "2 in training")):
        assert (
            f"WARNING: {name}: median enlargement {measured}: its frames have no more pixels than a median of 16"
            in said
        )


WIDE, TALL = np.full((4, 2), (1080, 1920)), np.full((4, 2), (1920, 1080))


def following(canvas_px=(0, 0)):
    """A config with one dataset, whose canvas follows the model unless one is given."""
    config = common.get_config()
    config.model.size_px = 448
    config.datasets.clips = common.dataset()
    config.datasets.clips.canvas_px = canvas_px
    return config


def saved(config) -> dict:
    return {"config": json.loads(config.to_json())}


def test_a_run_that_continues_keeps_its_canvas_and_says_what_it_would_be_now(capsys):
    began = run_module._with_canvases(following(), {"clips": (WIDE, WIDE)}, None)
    assert began.datasets.clips.canvas_px == (512, 910)
    goes_on = run_module._with_canvases(following(), {"clips": (TALL, TALL)}, saved(began))
    assert goes_on.datasets.clips.canvas_px == (512, 910)
    assert capsys.readouterr().out == (
        "clips: canvas (512, 910), as when the run began; its records would now give (910, 512); "
        "config.datasets.clips.canvas_px=(910, 512) changes it from here on\n"
    )
    given = run_module._with_canvases(following(canvas_px=(20, 30)), {"clips": (TALL, TALL)}, saved(began))
    assert given.datasets.clips.canvas_px == (20, 30) and not capsys.readouterr().out


def test_the_first_host_reads_the_sizes_for_all(monkeypatch):
    """Another host reads none: a record that it alone cannot read would give it other shapes."""
    config, sent = following(), []
    splits = {"clips": types.SimpleNamespace(split="train")}
    monkeypatch.setattr(inputs.frame_sizes_of, "sample_sizes", lambda *_: WIDE)
    monkeypatch.setattr(inputs.hosts, "exchange", lambda mine: sent.append(mine) or [sent[0], mine])
    first = inputs.frame_sizes(config, splits, {})
    monkeypatch.setattr(inputs.jax, "process_index", lambda: 1)
    monkeypatch.setattr(inputs.frame_sizes_of, "sample_sizes", lambda *_: TALL)
    second = inputs.frame_sizes(config, splits, {})
    for sizes in (first, second):
        np.testing.assert_array_equal(sizes["clips"][0], WIDE)
        assert sizes["clips"][1].shape == (0, 2)


def test_the_first_host_reads_the_newest_metadata_for_all(monkeypatch):
    monkeypatch.setattr(run_module.jax, "process_index", lambda: 1)
    monkeypatch.setattr(run_module.hosts, "exchange", lambda mine: ['{"heads": {}}', mine])
    assert run_module._newest_meta("/no/such/folder") == {"heads": {}}
