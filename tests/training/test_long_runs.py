"""A long run hardly grows: evaluations with their saves keep little memory."""

import ctypes
import gc
import pathlib
import resource

import pytest
from etils import epath

from cover_jax.checkpoint.saver import Saver
from cover_jax.training import loop, progress
from cover_jax.training.run import Run
from data_pipelines.stream import pipeline
from tests.helpers import tiny_run

EVALUATIONS, SETTLED = 50, 10
GROWTH_MB = 20  # of 40 evaluations: 13.5 in one measurement, texts of TensorStore among it; once it was 28


def resident_mb() -> float:
    """Memory of this process that is in use now, without what the allocator has free."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_evaluations_with_their_saves_keep_little_memory(tmp_path, monkeypatch):
    traced, stream = [], pipeline._stream
    monkeypatch.setattr(pipeline, "_stream", lambda *arguments: traced.append(1) or stream(*arguments))
    tiny_run.prepare_data(tmp_path / "data")
    config = tiny_run.config(tmp_path / "data", keep_checkpoints=2)
    run = Run(config, str(tmp_path / "run"))
    state, _ = run.restore_or_init()
    measured = []
    with (
        Saver(config, str(tmp_path / "run")) as saver,
        progress.MetricWriter(epath.Path(run.workdir), config) as writer,
    ):
        for step in range(EVALUATIONS):
            state = state.replace(step=state.step + 1)
            saver.save(state, run.meta, loop._evaluate(run, state, step, writer))
            assert saver.wait() == ""
            measured.append(resident_mb())
    assert len(traced) == len(run.eval_splits)  # tracing takes longer than a small evaluation
    assert measured[-1] - measured[SETTLED] < GROWTH_MB, [round(value, 1) for value in measured]
