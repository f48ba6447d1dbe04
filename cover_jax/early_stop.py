"""When a run has learnt what it can: the best of its evaluations, and how many came since."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass
class Watch:
    """Goes with each checkpoint, so that a run that was stopped ends at the same step as one that was not.

    Attributes:
        best: the largest value of config.best_metric; None before the first evaluation.
        evals_since: evaluations after it that were not better.
        missed: this step's evaluation is still to come: a signal came in its place.
    """

    best: float | None = None
    evals_since: int = 0
    missed: bool = False

    def add(self, accuracies: Mapping[str, float], metric: str) -> None:
        """Counts an evaluation. One that equals the best is no better: an accuracy of 100 % ends a run too."""
        self.missed = False
        if metric not in accuracies:  # nothing is evaluated
            return
        is_better = self.best is None or accuracies[metric] > self.best
        self.evals_since = 0 if is_better else self.evals_since + 1
        self.best = accuracies[metric] if is_better else self.best

    def is_over(self, patience: int) -> bool:
        """Whether it is time to end, at config.early_stop_evals; 0: never."""
        return 0 < patience <= self.evals_since
