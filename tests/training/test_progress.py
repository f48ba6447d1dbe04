"""What the log line says of speed."""

import datetime
import types

import numpy as np
import pytest

from configs import common
from cover_jax.training import loop, progress
from data_pipelines.stream import mixture


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


def make(clock, steps, *, started_s=None, peak_flops=None, **changes):
    """The report of a run on "a", or on the datasets of `flops`: 8 clips per step, 3 TFLOP if nothing else is said."""
    config = common.get_config()
    flops, weights = changes.pop("flops", {"a": 3 * 10**12}), changes.pop("weights", {})
    config.update({"steps": steps, "eval_every_steps": 10**6, "checkpoint_every_steps": 10**6} | changes)
    for name in flops:
        config.datasets[name] = common.dataset()
        config.datasets[name].update({"batch_size": 8, "eval_split": "", "weight": weights.get(name, 1.0)})
    mix = mixture.Mixture.of(config.datasets, config.plan, seed=0)
    schedule = mixture.BatchSchedule(mix, 0, 0, mix.counts(0))
    return progress.Progress(config, schedule, flops, clock.now_s if started_s is None else started_s, peak_flops)


MEASURED = {"a/loss": (6.0, 8.0), "a/top1": (2.0, 8.0), "scalars": {"learning_rate": 0.1}}


def step(report, clock):
    """A step of 2 s, of which input took 0.5 s, with 8 clips and 3 TFLOP."""
    clock.now_s += 2.0
    report.waited(["a"], 0.5)
    report.add(MEASURED)


@pytest.mark.parametrize("evaluation_s", [0.0, 30.0])
def test_evaluation_is_no_part_of_the_speed(clock, evaluation_s):
    report = make(clock, 1802)
    step(report, clock)
    with report.paused("evaluation"):
        clock.now_s += evaluation_s
    step(report, clock)
    line, scalars = report.flush(2)
    left = str(datetime.timedelta(seconds=3600 + evaluation_s))
    assert line.startswith(f"step 2/1802, {left} left | a loss 0.750 top-1 25.0% | 4.0 clips/s | 1.5 TFLOP/s | input")
    assert " | input wait 25% | " in line
    assert scalars["train/clips_per_s"] == 4.0


def test_an_interval_starts_where_the_one_before_ended(clock):
    report = make(clock, 4)
    step(report, clock)
    report.flush(1)
    clock.now_s += 2.0
    step(report, clock)
    assert report.flush(2)[1]["train/clips_per_s"] == 2.0


def test_share_of_the_peak(clock):
    report = make(clock, 4, peak_flops=6e12)
    step(report, clock)
    line, scalars = report.flush(1)
    assert scalars["train/mfu"] == 0.25
    assert " | MFU 25.0% | " in line


def test_goodput_is_of_the_time_since_the_first_start(clock):
    """Steps 2 to 5 of a run that began 10 s before this process, evaluated for 4 s: 5 of 1.5 s in 22 s."""
    report = make(clock, 9, started_s=clock.now_s - 10.0)
    step(report, clock)
    step(report, clock)
    assert "goodput" not in report.flush(3)[0]  # it was compiled in this interval
    step(report, clock)
    with report.paused("evaluation"):
        clock.now_s += 4.0
    step(report, clock)
    line, scalars = report.flush(5)
    assert scalars["train/goodput"] == pytest.approx(5 * 1.5 / 22)
    assert " | goodput 34% | " in line


class Devices:
    """A loop as `loop._Steps`: a step is dispatched after its input was waited for, then the one before it is fetched.

    `step_s` are made-up times of the devices. A new kind is compiled for 100 s at its dispatch.
    """

    def __init__(self, report, clock, step_s, wait_s=None):
        self.report, self.clock, self.step_s, self.wait_s = report, clock, step_s, wait_s or {}
        self.pending, self.compiled, self.ready_s = None, set(), clock.now_s

    def take(self, name):
        self.clock.now_s += self.wait_s.get(name, 0.0)
        self.report.waited([name], self.wait_s.get(name, 0.0))
        if name not in self.compiled:
            self.compiled.add(name)
            self.clock.now_s += 100.0
        before, self.ready_s = self.ready_s, max(self.ready_s, self.clock.now_s) + self.step_s[name]
        self.fetch(before)
        self.pending = name

    def fetch(self, ready_s=None):
        if self.pending is not None:
            self.clock.now_s = max(self.clock.now_s, self.ready_s if ready_s is None else ready_s)
            self.report.add({key.replace("a/", "clips/"): value for key, value in MEASURED.items()})
            self.pending = None


STEP_S = {"clips": 2.0, "images": 0.1}  # 20 times apart
FLOPS = {"clips": 20 * 10**12, "images": 10**12}
MIX = {"flops": FLOPS, "weights": {"clips": 1.0, "images": 3.0}}


def left_s(line):
    hours, minutes, seconds = map(int, line.split(", ")[1].split(" ")[0].split(":"))
    return 3600 * hours + 60 * minutes + seconds


@pytest.mark.parametrize("wait_s", [{}, {"clips": 5.0}])
def test_the_time_left_is_by_the_datasets_of_the_steps_that_are_left(clock, wait_s):
    """An interval of images alone must not make a clip's step look quick, and its waits are its own."""
    report = make(clock, 4000, **MIX)
    devices = Devices(report, clock, STEP_S, wait_s)
    for name in ["clips"] * 5 + ["images"] * 5:
        devices.take(name)
    devices.fetch()
    report.flush(10)
    for _ in range(20):
        devices.take("images")
    devices.fetch()
    line, _ = report.flush(30)
    counts = report._kinds(30, 4000)
    assert sum(counts.values()) == 3970 and counts["clips",] == pytest.approx(1000, abs=30)
    of_clip = max(STEP_S["clips"], wait_s.get("clips", 0.0))  # devices work while the host waits for the next clips
    assert left_s(line) == pytest.approx(counts["clips",] * of_clip + counts["images",] * 0.1, rel=0.01)


def test_a_dataset_that_was_not_timed_yet_is_estimated_by_its_operations(clock):
    report = make(clock, 4000, **MIX)
    devices = Devices(report, clock, STEP_S)
    for _ in range(10):
        devices.take("images")
    devices.fetch()
    counts = report._kinds(10, 4000)
    assert left_s(report.flush(10)[0]) == pytest.approx(counts["clips",] * 2.0 + counts["images",] * 0.1, rel=0.01)


def test_evaluations_and_saves_are_part_of_the_time_left(clock):
    """Evaluations at 40, 80, 100; saves there and at 30, 60, 90."""
    report = make(clock, 100, eval_every_steps=40, checkpoint_every_steps=30)
    report._config.datasets.a.eval_split = "validation"
    for _ in range(10):
        step(report, clock)
    assert report.flush(10)[0].startswith("step 10/100, 0:03:00 and 3 evaluations left")
    with report.paused("evaluation"):
        clock.now_s += 60.0
    with report.paused("save"):
        clock.now_s += 7.0
    step(report, clock)
    assert left_s(report.flush(40)[0]) == 60 * 2 + 3 * 60 + 5 * 7  # that of this step is still to come
    step(report, clock)
    assert left_s(report.flush(99)[0]) == 2 + 60 + 7


def test_goodput_is_not_that_of_the_quickest_dataset(clock):
    """All steps at their best, no waits, no pauses: all but the compilations is good."""
    report = make(clock, 4000, **MIX)
    devices = Devices(report, clock, STEP_S)
    for at in range(40):
        devices.take(next(iter(report._schedule.at(at))))
    devices.fetch()
    report.flush(40)
    for _ in range(10):
        devices.take("images")
    devices.fetch()
    best_s = sum(count * STEP_S[name] for (name,), count in report._kinds(0, 50).items())
    assert report.flush(50)[1]["train/goodput"] == pytest.approx(best_s / (clock.now_s - 100.0))


def test_a_preview_is_small_and_shows_all_of_the_clip():
    frames = np.zeros((4, 16, 448, 448, 3), np.float32)
    frames[1, 15, 400:] = 2.0
    picture = progress.shrink_preview(frames)
    assert picture.shape == (4 * 112, 8 * 112, 3)
    assert picture[112 + 101 : 224, -112:].min() == 1.0 and picture[:112].max() == 0.0
    assert progress.shrink_preview(frames[:1, :1, :32, :48]).shape == (32, 48, 3)


def test_only_the_first_batch_of_a_dataset_is_previewed(monkeypatch):
    written = []
    writer = types.SimpleNamespace(write_images=lambda step, images: written.append((step, sorted(images))))
    monkeypatch.setattr(progress, "preview_input", lambda *_: None)
    steps = loop._Steps.__new__(loop._Steps)
    steps._run, steps._writer = None, writer
    steps._preview(0, {"a": 0}, {"a": None})
    steps._preview(7, {"a": 7, "b": 0}, {"a": None, "b": None})
    steps._preview(8, {"a": 8, "b": 1}, {"a": None, "b": None})  # as after a restart at step 8
    assert written == [(0, ["input/a"]), (7, ["input/b"])]
