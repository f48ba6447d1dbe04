"""What a run shows of its speed on request."""

import json

import jax
import jax.numpy as jnp
import pytest

from cover_jax.parallel import chips, compilation
from cover_jax.training import profiling


def traced(folder, steps, taken):
    """How many traces lie in `folder` after the steps `taken`."""
    profiler = profiling.Profiler(steps, folder)
    for step in taken:
        with profiler.step(step):
            jnp.ones(3).block_until_ready()
    profiler.close()
    return len(list(folder.glob("plugins/profile/*/*.xplane.pb")))


@pytest.mark.parametrize(
    ("steps", "taken", "traces"),
    [
        ((0, 0), range(3), 0),
        ((5, 6), range(3), 0),
        ((1, 3), range(5), 1),
        ((1, 9), range(4, 6), 1),  # a run that starts and ends inside the range
    ],
)
def test_traces_the_steps_of_the_range(tmp_path, steps, taken, traces):
    assert traced(tmp_path, steps, taken) == traces


def test_a_trace_ends_after_the_step_that_follows_its_range(tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: ended.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: ended.append("stop"))
    profiler = profiling.Profiler((1, 3), tmp_path)
    for step in range(5):
        with profiler.step(step):
            ended.append(step)
    assert ended == [0, "start", 1, 2, 3, "stop", 4]


def test_what_the_compiler_made_is_written(tmp_path):
    step = compilation.jit(lambda x, y: (x + 1.0, x @ y), donate_argnums=0)
    square = jnp.ones((64, 64))
    line = profiling.write_compiled(step.lower(square, square).compile(), tmp_path / "compiled", "a+b")
    assert "HloModule" in (tmp_path / "compiled" / "a+b.hlo.txt").read_text()
    memory = json.loads((tmp_path / "compiled" / "a+b.memory.json").read_text())
    # Two arguments, of which one is donated, and two results (with a pointer to each).
    assert memory["argument_bytes"] == 2 * 64 * 64 * 4
    assert memory["alias_bytes"] == 64 * 64 * 4
    assert memory["total_bytes"] == memory["temp_bytes"] + 3 * 64 * 64 * 4 + 16
    assert line.startswith("a+b: 0.00 GiB per device")


class Device:
    def __init__(self, device_kind):
        self.device_kind = device_kind


@pytest.mark.parametrize(
    ("kind", "tflops"),
    [
        ("TPU v5 lite", 197), ("TPU v5", 459), ("TPU v4", 275), ("TPU v6 lite", 918), ("NVIDIA H200", 989),
        ("TPU7x", 1153.5), ("TPU v4 lite", None), ("cpu", None),
    ],
)  # fmt: skip
def test_peak_of_a_kind_of_device(kind, tflops):
    assert chips.peak_flops([Device(kind)] * 4) == (tflops and 4 * tflops * 1e12)
