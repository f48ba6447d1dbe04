"""What ends or rolls back a run that goes wrong: losses that are not finite or too high, too many undecodable examples.

All checks use metrics that are identical on all hosts, so all hosts stop on the same step.
"""

import math
import statistics
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from cover_jax import errors
from data_pipelines.stream.batch import Batch

_REMEDY = "a lower config.optimizer.learning_rate, more warmup_steps or a clip_norm may help, or config.max_rollbacks"


class DivergedError(RuntimeError):
    """The training went wrong at a step.

    Args:
        step: the index of the step, from 0.
        names: the datasets that the step trained on.
        reason: why the step counts as diverged.

    Attributes:
        examples: dataset -> indices of the examples that the step trained on. Empty until the code that catches the
            error fills it in.
    """

    exit_code = errors.DIVERGED

    def __init__(self, step: int, names: list[str], reason: str):
        super().__init__(step, names, reason)
        self.step, self.names, self.reason = step, names, reason
        self.examples: dict[str, list[int]] = {}

    def __str__(self) -> str:
        on = ", ".join(name + self._on(name) for name in self.names)
        return f"step {self.step + 1} on {on}: {self.reason}; {_REMEDY}"

    def _on(self, name: str) -> str:
        return f" (examples {format_indices(self.examples[name])})" if name in self.examples else ""


def check_divergence(config: ConfigDict, step: int, measured: dict, losses: dict[str, list[float]]) -> str | None:
    """Checks one step. Returns a log line if it was not finite but the run continues.

    Args:
        config: the whole config.
        step: counted from 0.
        measured: the metrics of `train_step`, on the host.
        losses: dataset -> its last losses, the newest last. The losses of this step are added to it.

    Raises:
        DivergedError: config.max_nonfinite_steps in a row were not finite, or a loss was more than
            config.max_loss_ratio times the median of the dataset's last losses.
    """
    means = _losses(measured)
    in_a_row = int(measured["scalars"]["skipped_in_a_row"])
    if in_a_row >= config.max_nonfinite_steps:
        steps = "step" if in_a_row == 1 else "steps"
        reason = f"{in_a_row} {steps} in a row with a loss or gradient that is not finite"
        raise DivergedError(step, list(means), f"{reason} (config.max_nonfinite_steps={config.max_nonfinite_steps})")
    if in_a_row:
        return f"step {step + 1} on {', '.join(means)}: loss or gradient is not finite; the step is skipped"
    if config.max_loss_ratio:
        for name, loss in means.items():
            _check_level(config, step, name, loss, losses.setdefault(name, []))
    return None


def _check_level(config: ConfigDict, step: int, name: str, loss: float, last: list[float]) -> None:
    if math.isnan(loss):  # no example of the dataset has weight
        return
    if len(last) == config.loss_window_steps and loss > config.max_loss_ratio * (level := statistics.median(last)):
        raise DivergedError(
            step, [name],
            f"its loss of {loss:.3g} is {loss / level:.1f} times the median of its last {len(last)} steps"
            f" (config.max_loss_ratio={config.max_loss_ratio})",
        )  # fmt: skip
    last.append(loss)
    del last[: -config.loss_window_steps]


def _losses(measured: dict) -> dict[str, float]:
    """Dataset -> mean loss of the step; NaN if no example had weight."""
    pairs = {key.removesuffix("/loss"): pair for key, pair in measured.items() if key.endswith("/loss")}
    return {name: float(total) / float(count) if count else math.nan for name, (total, count) in pairs.items()}


class BadDataError(RuntimeError):
    """More examples of a dataset cannot be decoded than config.input.max_bad_share allows."""

    exit_code = errors.BAD_DATA


def add_undecodable(bad: dict[str, list[int]], undecodable: Mapping[str, np.ndarray]) -> None:
    """Adds the undecodable examples of one step to the known ones.

    Args:
        bad: dataset -> indices of its undecodable examples, sorted and unique.
        undecodable: dataset -> index of each row of the global batch that cannot be decoded, -1 for the others.
    """
    for name, index_B in undecodable.items():
        if (found := set(index_B[index_B >= 0].tolist())) - set(bad.get(name, ())):
            bad[name] = sorted(found.union(bad.get(name, ())))


def check_undecodable(
    max_bad_share: float, step: int, bad: Mapping[str, list[int]], num_examples: Mapping[str, int]
) -> None:
    """Checks the number of undecodable examples after a step.

    Args:
        max_bad_share: config.input.max_bad_share.
        step: counted from 0.
        bad: as in `add_undecodable`.
        num_examples: dataset -> number of its training examples.

    Raises:
        BadDataError: too many examples of one dataset are undecodable.
    """
    for name, indices in bad.items():
        if len(indices) > max_bad_share * num_examples[name]:
            raise BadDataError(
                f"step {step + 1} on {name}: {len(indices)} of its {num_examples[name]} training examples cannot be "
                f"decoded (config.input.max_bad_share={max_bad_share}): {format_indices(indices)}; the log of the host "
                "that read an example names its file and the reason; prepare the dataset again, or raise max_bad_share"
            )


def report_undecodable(host: int, name: str, batch: Batch, known: Mapping[str, list[int]], stream) -> None:
    """Prints a line per new undecodable example in a host's rows of a batch. Reads each again to find the reason."""
    if batch["weight"].all():
        return
    reported = set(known.get(name, ()))
    for row in np.flatnonzero(batch["weight"] == 0):
        index = int(batch["index"][row])
        if index not in reported:
            reported.add(index)
            reason = stream.why_undecodable(index, batch["seed"][row])
            print(f"host {host}: {name}: example {index} cannot be decoded and weighs nothing: {reason}", flush=True)


def format_indices(indices: list[int], most: int = 64) -> str:
    """Formats as "3, 5, 8". Of more than `most` indices: the first `most`, and the number of the others."""
    more = f" and {len(indices) - most} more" if len(indices) > most else ""
    return ", ".join(map(str, indices[:most])) + more
