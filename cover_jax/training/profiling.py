"""How long steps take, by their datasets; on request a trace of some steps, and the compiled program's memory."""

import collections
import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping

import jax
from etils import epath

Kind = tuple[str, ...]  # a kind of step: the datasets that it uses


@dataclasses.dataclass
class _Total:
    busy_s: float = 0.0
    wait_s: float = 0.0
    steps: int = 0


class StepTimes:
    """How long the steps of each kind take. A step on images may be 20 times shorter than one on clips.

    A step is fetched after the next one is dispatched, and the devices run one after the other. So the time from one
    fetch to the next, without the wait for input in between, is that of the step that was fetched. A new kind is
    compiled while it is dispatched: that step and the one before it are not counted.

    Attributes:
        mean_s: kind -> mean time of a step in the last interval that had steps of this kind, with its wait for input.
        best_s: kind -> the shortest mean time of an interval, without waits.
    """

    def __init__(self, now_s: float):
        self._mark_s = now_s  # of the last fetch, later by what does not count
        self._begun: collections.deque[tuple[Kind, float]] = collections.deque()
        self._compiled: set[Kind] = set()
        self._not_counted = 0  # of the next steps that are fetched
        self._interval: dict[Kind, _Total] = {}
        self.mean_s: dict[Kind, float] = {}
        self.best_s: dict[Kind, float] = {}

    def begin(self, kind: Kind, wait_s: float) -> None:
        """A step is about to be dispatched, after its input was waited for."""
        if kind not in self._compiled:
            self._compiled.add(kind)
            self._not_counted = 2
        self._begun.append((kind, wait_s))
        self.exclude(wait_s)

    def exclude(self, seconds: float) -> None:
        """Time that no step took."""
        self._mark_s += seconds

    def fetched(self, now_s: float) -> None:
        """The oldest step that began has been fetched."""
        kind, wait_s = self._begun.popleft()
        busy_s, self._mark_s = now_s - self._mark_s, now_s
        if self._not_counted:
            self._not_counted -= 1
            return
        total = self._interval.setdefault(kind, _Total())
        total.busy_s, total.wait_s, total.steps = total.busy_s + busy_s, total.wait_s + wait_s, total.steps + 1

    def end_interval(self) -> None:
        """Brings `mean_s` and `best_s` up to date; the next interval begins."""
        for kind, total in self._interval.items():
            self.mean_s[kind] = (total.busy_s + total.wait_s) / total.steps
            best_s = total.busy_s / total.steps
            self.best_s[kind] = min(best_s, self.best_s.get(kind, best_s))
        self._interval = {}

    def total_s(self, steps: Mapping[Kind, float], step_flops: Mapping[Kind, int], of: Mapping[Kind, float]) -> float:
        """Time of so many steps of each kind. A kind without a time is estimated from the others, by its operations.

        Args:
            steps: kind -> number of its steps.
            step_flops: kind -> operations of one of them.
            of: `mean_s` or `best_s`, not empty.
        """
        s_per_flop = sum(of.values()) / sum(step_flops[kind] for kind in of)
        return sum(count * of.get(kind, step_flops[kind] * s_per_flop) for kind, count in steps.items())


class Profiler:
    """Traces a range of steps on every host, for TensorBoard's profile page and for Perfetto.

    Args:
        steps: the first step of the range and the step after its last. If they are equal, nothing is traced.
        folder: where `plugins/profile` is written.
    """

    def __init__(self, steps: tuple[int, int], folder: epath.Path):
        self._first, self._end = steps
        self._folder = folder
        self._running = False

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Wraps all work of the loop in `step`. A run that starts inside the range traces the rest of it."""
        if self._first <= step < self._end and not self._running:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield
        if step >= self._end:  # only now is the last step of the range finished
            self.close()

    def close(self) -> None:
        """Ends the trace if one is active: the run may end inside the range."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()


def write_compiled(compiled: jax.stages.Compiled, folder: epath.Path, name: str) -> str:
    """Writes NAME.hlo.txt (the optimized program of one device) and NAME.memory.json into `folder`.

    Only the first host writes. Returns one line for the log.
    """
    memory = compiled.memory_analysis()
    needed = {kind: getattr(memory, f"{kind}_size_in_bytes") for kind in ("argument", "output", "alias", "temp")}
    # Donated arguments are also outputs: `alias` is the size that is counted twice.
    needed["total"] = needed["argument"] + needed["output"] - needed["alias"] + needed["temp"]
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.hlo.txt").write_text(compiled.as_text())
        (folder / f"{name}.memory.json").write_text(json.dumps({f"{k}_bytes": v for k, v in needed.items()}, indent=2))
    return (
        f"{name}: {needed['total'] / 2**30:.2f} GiB per device: {needed['argument'] / 2**30:.2f} for the state and the "
        f"batch, {needed['temp'] / 2**30:.2f} temporary; see {folder}/{name}.hlo.txt"
    )
