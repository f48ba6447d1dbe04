"""When a run has gone wrong: steps that are not finite, or a loss far above what it was.

Judged from metrics that all hosts have alike, so that all stop, or go back, on the same step.
"""

import math
import statistics

from ml_collections import ConfigDict

from cover_jax import bad_data, exit_codes

_REMEDY = "a lower config.optimizer.learning_rate, more warmup_steps or a clip_norm may help, or config.max_rollbacks"


class DivergedError(RuntimeError):
    """The training went wrong at a step.

    Args:
        step: which, counted from 0.
        names: the datasets that it trained on.
        reason: what was seen.

    Attributes:
        examples: dataset -> indices of the examples that it trained on, if whoever caught it has looked them up.
    """

    exit_code = exit_codes.DIVERGED

    def __init__(self, step: int, names: list[str], reason: str):
        super().__init__(step, names, reason)
        self.step, self.names, self.reason = step, names, reason
        self.examples = {}

    def __str__(self) -> str:
        on = ", ".join(name + self._on(name) for name in self.names)
        return f"step {self.step + 1} on {on}: {self.reason}; {_REMEDY}"

    def _on(self, name: str) -> str:
        return f" (examples {bad_data.listed(self.examples[name])})" if name in self.examples else ""


def check(config: ConfigDict, step: int, measured: dict, losses: dict[str, list[float]]) -> str | None:
    """Judges one step; returns a line if it was not finite but the run goes on.

    Args:
        config: the whole config.
        step: counted from 0.
        measured: what `train_step` measured, on the host.
        losses: dataset -> its last losses, the newest last; those of this step are added.

    Raises:
        DivergedError: config.max_nonfinite_steps in a row were not finite, or a loss was more than
            config.max_loss_ratio times the median of the dataset's last ones.
    """
    means = _losses(measured)
    in_a_row = int(measured["scalars"]["skipped_in_a_row"])
    if in_a_row >= config.max_nonfinite_steps:
        reason = f"the {in_a_row}. step in a row whose loss or gradient is not finite"
        raise DivergedError(step, list(means), f"{reason} (config.max_nonfinite_steps={config.max_nonfinite_steps})")
    if in_a_row:
        return f"step {step + 1} on {', '.join(means)}: loss or gradient is not finite; the step changed nothing"
    if config.max_loss_ratio:
        for name, loss in means.items():
            _check_level(config, step, name, loss, losses.setdefault(name, []))
    return None


def _check_level(config: ConfigDict, step: int, name: str, loss: float, last: list[float]) -> None:
    if math.isnan(loss):  # of no example at all
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
    """Dataset -> mean loss of the step; NaN where no example weighed anything."""
    pairs = {key.removesuffix("/loss"): pair for key, pair in measured.items() if key.endswith("/loss")}
    return {name: float(total) / float(count) if count else math.nan for name, (total, count) in pairs.items()}
