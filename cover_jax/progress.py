"""What the user reads while a run goes on: one line an interval, and the table at the end."""

import contextlib
import datetime
import math
import time
from collections.abc import Iterator

from cover_jax import metrics


class Progress:
    """Gathers fetched metrics between two log lines.

    Args:
        steps: of the whole run.
        started_s: when the run was first started, by any process (seconds since 1970).
        peak_flops: what all devices together can do in a second; None: not known.
    """

    def __init__(self, steps: int, started_s: float, peak_flops: float | None):
        self._steps, self._started_s, self._peak_flops = steps, started_s, peak_flops
        self._quickest_step_s = None  # not known from the first interval, in which the steps are compiled
        self._reset()

    def _reset(self):
        self._since, self._wait_s, self._examples, self._taken, self._totals = time.perf_counter(), 0.0, 0, 0, {}
        self._flops = 0

    def waited(self, seconds: float, examples: int, flops: int) -> None:
        """Counts the time that a step's input made the accelerator wait, its examples, and the model's operations."""
        self._wait_s += seconds
        self._examples += examples
        self._flops += flops
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
        scalars |= self._utilization(seconds) | self._goodput(step, seconds)
        datasets = sorted({name.split("/")[0] for name in values})
        parts = [f"{d} loss {values[f'{d}/loss']:.3f} top-1 {values[f'{d}/top1']:.1%}" for d in datasets]
        line = " | ".join([
            f"step {step}/{self._steps}, {datetime.timedelta(seconds=round(eta_s))} left",
            *parts,
            f"{scalars['clips_per_s']:.1f} clips/s",
            f"MFU {scalars['mfu']:.1%}" if "mfu" in scalars else f"{scalars['model_tflops']:.3g} TFLOP/s",
            f"input wait {scalars['input_wait_share']:.0%}",
            *([f"goodput {scalars['goodput']:.0%}"] if "goodput" in scalars else []),
            f"lr {scalars['learning_rate']:.2e}",
        ])  # fmt: skip
        self._reset()
        return line, {f"train/{name}": value for name, value in scalars.items()}

    def _utilization(self, seconds: float) -> dict[str, float]:
        """The model's operations a second and, where the devices' peak is known, their share of it (MFU)."""
        done = {"model_tflops": self._flops / seconds / 1e12}
        return done | ({"mfu": self._flops / seconds / self._peak_flops} if self._peak_flops else {})

    def _goodput(self, step: int, seconds: float) -> dict[str, float]:
        """Share of the time since the run was first started that its steps would have taken at their best.

        What is missing went into starting, compiling, waiting for input, evaluating, saving, standing still and doing
        again what a fault had undone.
        """
        if self._quickest_step_s is None:
            self._quickest_step_s = math.inf
            return {}
        self._quickest_step_s = min(self._quickest_step_s, (seconds - self._wait_s) / max(self._taken, 1))
        return {"goodput": step * self._quickest_step_s / (time.time() - self._started_s)}


def accuracy_row(name: str, num_classes: int, predictions: metrics.Predictions) -> dict[str, str]:
    """One dataset's row of the table of accuracies."""
    found = predictions.accuracies
    return {
        "dataset": name, "classes": str(num_classes), "examples": str(len(predictions.index)),
        "chance": f"{1 / num_classes:.1%}", "top-1": f"{found['top1']:.1%}", "top-5": f"{found['top5']:.1%}",
        "mean class": f"{found['mean_class']:.1%}",
    }  # fmt: skip


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
