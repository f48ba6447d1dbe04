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
ALLOCATED_MB = 5  # growth of 40 evaluations; 0.7 in 90 of them, in one measurement
# Memory that is resident also grows by the gaps between what stays: 7.6 and 13.5 in two measurements; once it was 28.
RESIDENT_MB = 20


class MallInfo2(ctypes.Structure):
    """What mallinfo2(3) of glibc returns, in bytes."""

    NAMES = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES]


def allocated_mb() -> float:
    """Memory that the allocator has given out and not got back."""
    gc.collect()
    info = ctypes.CDLL(None).mallinfo2
    info.restype = MallInfo2
    now = info()
    return (now.uordblks + now.hblkhd) / 1e6


def resident_mb() -> float:
    """Memory of this process that is in use now, without what the allocator has free."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs Linux with glibc 2.33")
def test_evaluations_with_their_saves_keep_little_memory(tmp_path, monkeypatch):
    traced, stream = [], pipeline._stream
    monkeypatch.setattr(pipeline, "_stream", lambda *arguments: traced.append(1) or stream(*arguments))
    tiny_run.prepare_data(tmp_path / "data")
    config = tiny_run.config(tmp_path / "data", keep_checkpoints=2)
    run = Run(config, str(tmp_path / "run"))
    state, _ = run.restore_or_init()
    allocated, resident = [], []
    with (
        Saver(config, str(tmp_path / "run")) as saver,
        progress.MetricWriter(epath.Path(run.workdir), config) as writer,
    ):
        for step in range(EVALUATIONS):
            state = state.replace(step=state.step + 1)
            saver.save(state, run.meta, loop._evaluate(run, state, step, writer))
            assert saver.wait() == ""
            allocated.append(allocated_mb())
            resident.append(resident_mb())
    assert len(traced) == len(run.eval_splits)  # tracing takes longer than a small evaluation
    # What is being saved comes and goes, by 4 MB: the least of ten counts.
    grown_mb = min(allocated[-10:]) - min(allocated[SETTLED : SETTLED + 10])
    assert grown_mb < ALLOCATED_MB, [round(value, 1) for value in allocated]
    assert resident[-1] - resident[SETTLED] < RESIDENT_MB, [round(value, 1) for value in resident]
