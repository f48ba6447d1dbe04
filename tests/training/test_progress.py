"""What the log line says of speed."""

import pytest

from cover_jax.training import progress


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def perf_counter(self):
        return self.now_s

    def time(self):
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def step(report, clock):
    """A step of 2 s, of which input took 0.5 s, with 8 clips and 3 TFLOP."""
    clock.now_s += 2.0
    report.waited(0.5, 8, 3 * 10**12)
    report.add({"a/loss": (6.0, 8.0), "a/top1": (2.0, 8.0), "scalars": {"learning_rate": 0.1}})


@pytest.mark.parametrize("evaluation_s", [0.0, 30.0])
def test_evaluation_is_no_part_of_the_speed(clock, evaluation_s):
    report = progress.Progress(steps=1802, started_s=clock.now_s, peak_flops=None)
    step(report, clock)
    with report.paused():
        clock.now_s += evaluation_s
    step(report, clock)
    line, scalars = report.flush(2)
    assert line.startswith("step 2/1802, 1:00:00 left | a loss 0.750 top-1 25.0% | 4.0 clips/s | 1.5 TFLOP/s | input")
    assert " | input wait 25% | " in line
    assert scalars["train/clips_per_s"] == 4.0


def test_an_interval_starts_where_the_one_before_ended(clock):
    report = progress.Progress(steps=4, started_s=clock.now_s, peak_flops=None)
    step(report, clock)
    report.flush(1)
    clock.now_s += 2.0
    step(report, clock)
    assert report.flush(2)[1]["train/clips_per_s"] == 2.0


def test_share_of_the_peak(clock):
    report = progress.Progress(steps=4, started_s=clock.now_s, peak_flops=6e12)
    step(report, clock)
    line, scalars = report.flush(1)
    assert scalars["train/mfu"] == 0.25
    assert " | MFU 25.0% | " in line


def test_goodput_is_of_the_time_since_the_first_start(clock):
    """Steps 3 to 5 of a run that began 10 s before this process, evaluated for 4 s: 5 of 1.5 s in 20 s."""
    report = progress.Progress(steps=9, started_s=clock.now_s - 10.0, peak_flops=None)
    step(report, clock)
    assert "goodput" not in report.flush(3)[0]  # it was compiled in this interval
    step(report, clock)
    with report.paused():
        clock.now_s += 4.0
    step(report, clock)
    line, scalars = report.flush(5)
    assert scalars["train/goodput"] == pytest.approx(5 * 1.5 / 20)
    assert " | goodput 38% | " in line
