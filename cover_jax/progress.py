"""What the user reads while a run goes on: one line an interval, and the table at the end."""

import contextlib
import datetime
import time
from collections.abc import Iterator

from cover_jax import metrics


class Progress:
    """Gathers fetched metrics between two log lines."""

    def __init__(self, steps: int):
        self._steps = steps
        self._reset()

    def _reset(self):
        self._since, self._wait_s, self._examples, self._taken, self._totals = time.perf_counter(), 0.0, 0, 0, {}

    def waited(self, seconds: float, examples: int) -> None:
        """Counts the time that a step's input made the accelerator wait, and how many examples came."""
        self._wait_s += seconds
        self._examples += examples
        self._taken += 1

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time spent inside out of the clips per second and of the time left."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def add(self, measured: dict) -> None:
        """Merges the (sum, count) pairs of one step; its scalars replace the ones before."""
        measured = dict(measured)
        self._scalars = measured.pop("scalars")
        self._totals = metrics.merge(self._totals, measured)

    def flush(self, step: int) -> tuple[str, dict[str, float]]:
        """The log line of the interval that ends at `step`, and its figures as scalars; starts the next interval."""
        seconds = time.perf_counter() - self._since
        values = metrics.divide(self._totals)
        eta_s = (self._steps - step) * seconds / max(self._taken, 1)
        scalars = values | {name: float(value) for name, value in self._scalars.items()}
        scalars |= {"clips_per_s": self._examples / seconds, "input_wait_share": self._wait_s / seconds}
        datasets = sorted({name.split("/")[0] for name in values})
        parts = [f"{d} loss {values[f'{d}/loss']:.3f} top-1 {values[f'{d}/top1']:.1%}" for d in datasets]
        line = " | ".join([
            f"step {step}/{self._steps}, {datetime.timedelta(seconds=round(eta_s))} left",
            *parts,
            f"{scalars['clips_per_s']:.1f} clips/s",
            f"input wait {scalars['input_wait_share']:.0%}",
            f"lr {scalars['learning_rate']:.2e}",
        ])  # fmt: skip
        self._reset()
        return line, {f"train/{name}": value for name, value in scalars.items()}


def table(title: str, rows: list[dict[str, str]]) -> str:
    """Rows of the same columns as plain text, the first column left-aligned, the others right."""
    columns = list(rows[0])
    widths = [max(len(column), *(len(row[column]) for row in rows)) for column in columns]

    def line(cells):
        return "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([title, rule, line(columns), rule, *(line([row[c] for c in columns]) for row in rows), rule])
