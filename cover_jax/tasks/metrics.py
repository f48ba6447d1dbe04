"""Accuracies of training and evaluation: sums and counts are merged first and divided last.

Each accuracy of an evaluation has its standard error. It covers the choice of the validation examples, as if each had
been drawn independently. It does not cover the seed of the training: another seed may change the result more. Clips
that were cut from one source video are not independent, so with these the true error is larger.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cover_jax.errors import ConfigError

# B batch, C classes, N examples, S side of a matrix

TOP_K = 5  # of a dataset with more classes than this, top-5 is an accuracy, too; of others it would always be 100 %
ERROR_NOTE = "± one standard error over validation examples"  # see the module's docstring
MOST_CELLS = 1000  # rows and columns of a confusion matrix, and pixels of its picture


def top_k_hits(scores_BC: jax.Array, label_B: jax.Array, k: int) -> jax.Array:
    """[B] float32: 1 where the label is among the k highest scores. Of equal scores, the lowest class comes first."""
    label_score_B1 = jnp.take_along_axis(scores_BC, label_B[:, None], axis=1)
    earlier_BC = jnp.arange(scores_BC.shape[1]) < label_B[:, None]
    ahead_BC = (scores_BC > label_score_B1) | ((scores_BC == label_score_B1) & earlier_BC)
    # Comparisons with NaN are false, so NaN scores would otherwise all count as hits.
    return ((jnp.sum(ahead_BC, axis=1) < k) & ~jnp.isnan(label_score_B1[:, 0])).astype(jnp.float32)


def merge(total: dict, new: dict) -> dict:
    """Adds two {name: (sum, count)}. Names that only one of them has are kept."""
    zero = (0.0, 0.0)
    return {
        name: tuple(a + b for a, b in zip(total.get(name, zero), new.get(name, zero), strict=True))
        for name in total | new
    }


def divide(total: dict) -> dict[str, float]:
    """{name: sum / count}; NaN if the count is 0."""
    return {name: float(s) / float(n) if n else float("nan") for name, (s, n) in total.items()}


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of values [N], from the sample standard deviation (N - 1); NaN for N = 1."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def binomial_error(accuracy: float, num_examples: float) -> float:
    """Standard error of an accuracy over independent examples: sqrt(p (1 - p) / n); NaN without examples.

    If all are right, or none, that would be 0. Then half a right and half a wrong example are added to p (Jeffreys'
    prior): 4 of 4 is 100 % with an error of 15 points.

    Args:
        accuracy: p, 0..1.
        num_examples: n; need not be whole (`Predictions.errors`).
    """
    if not num_examples:
        return math.nan
    p = accuracy if 0 < accuracy < 1 else (accuracy * num_examples + 0.5) / (num_examples + 1)
    return math.sqrt(p * (1 - p) / num_examples)


def percent(accuracy: float, error: float | None) -> str:
    """An accuracy with its standard error, both 0..1, as "76.0 ± 2.5%"; without an error as "76.0%"."""
    return f"{accuracy:.1%}" if error is None else f"{100 * accuracy:.1f} ± {100 * error:.1f}%"


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A model's predictions, one per example of a split. All fields are [N], in the order of `index`."""

    index: np.ndarray  # position in the split
    label: np.ndarray
    top1: np.ndarray  # the class with the highest probability
    hit5: np.ndarray  # 1 where the label is among the five highest
    label_probability: np.ndarray  # 0..1, of the label's class
    top1_probability: np.ndarray  # 0..1, of `top1`

    @property
    def hits(self) -> np.ndarray:
        """bool [N]: where `top1` is the label."""
        return self.top1 == self.label

    @property
    def loss(self) -> float:
        """The mean over examples of -log(probability of the label), in nats; NaN without examples.

        The probability is the mean of all views. One that float32 rounds to 0 counts as the smallest normal number.
        """
        if not len(self.index):
            return math.nan
        least = np.finfo(np.float32).tiny
        return float(-np.log(np.maximum(self.label_probability.astype(np.float64), least)).mean())

    def accuracies(self, num_classes: int) -> dict[str, float]:
        """Each 0..1: top1, top5 and mean_class, the mean over classes of the accuracy per class.

        Args:
            num_classes: of the dataset. Up to TOP_K classes there is no top5.
        """
        if not len(self.index):
            found = dict.fromkeys(("top1", "top5", "mean_class"), math.nan)
        else:
            hits, totals = self.hits, np.bincount(self.label)
            present = totals > 0
            per_class = np.bincount(self.label, hits)[present] / totals[present]
            means = {"top1": hits, "top5": self.hit5, "mean_class": per_class}
            found = {kind: float(np.mean(values)) for kind, values in means.items()}
        return {kind: value for kind, value in found.items() if kind != "top5" or num_classes > TOP_K}

    def errors(self, num_classes: int) -> dict[str, float]:
        """The standard error of each of `accuracies` (`binomial_error`), 0..1.

        The mean over classes has the error of as many examples as would give it if all classes had equally many: the
        number of classes times the harmonic mean of their examples.
        """
        totals = np.bincount(self.label) if len(self.index) else np.zeros(0, int)
        totals = totals[totals > 0]
        equal = len(totals) ** 2 / np.sum(1 / totals) if len(totals) else 0
        counts = {"top1": len(self.index), "top5": len(self.index), "mean_class": float(equal)}
        return {kind: binomial_error(value, counts[kind]) for kind, value in self.accuracies(num_classes).items()}

    def scalars(self, num_classes: int) -> dict[str, float]:
        """What an evaluation stores: `accuracies`, each one's error as KIND_error, the loss, and the examples."""
        errors = {f"{kind}_error": value for kind, value in self.errors(num_classes).items()}
        return self.accuracies(num_classes) | errors | {"loss": self.loss, "examples": len(self.index)}

    def confusion(self, num_classes: int, most_cells: int = MOST_CELLS) -> np.ndarray:
        """int64 [S, S]: number of examples with class `row` that were predicted as class `column`.

        S is the number of classes, at most `most_cells`. Of more classes, neighbours in the order of the labels share a
        row and a column: 19,167 x 19,167 counts would take 2.9 GB.
        """
        side = min(num_classes, most_cells)
        cells = [classes.astype(np.int64) * side // num_classes for classes in (self.label, self.top1)]
        matrix = np.zeros((side, side), np.int64)
        np.add.at(matrix, tuple(cells), 1)
        return matrix


def accuracy_row(name: str, num_classes: int, predictions: Predictions) -> dict[str, str]:
    """One dataset's row in the table of accuracies; its cell of top-5 is empty if the dataset has none."""
    errors = predictions.errors(num_classes)
    found = {kind: percent(value, errors[kind]) for kind, value in predictions.accuracies(num_classes).items()}
    return {
        "dataset": name, "classes": str(num_classes), "examples": str(len(predictions.index)),
        "chance": f"{1 / num_classes:.1%}", "top-1": found["top1"], "top-5": found.get("top5", ""),
        "mean class": found["mean_class"], "loss": f"{predictions.loss:.3f}",
    }  # fmt: skip


def with_means(scalars: dict[str, float], means: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The scalars of an evaluation as DATASET/NAME, with means of some of them, and their errors.

    Args:
        scalars: each metric has its error, as NAME_error.
        means: name of a mean -> the metrics that it is the mean of.
    """
    found = dict(scalars)
    for mean, names in means.items():
        found[mean] = float(np.mean([scalars[name] for name in names]))
        found[f"{mean}_error"] = math.hypot(*(scalars[f"{name}_error"] for name in names)) / len(names)
    return found


def with_bests(scalars: dict[str, float], bests: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The scalars of an evaluation, with the largest of some of them, and its error.

    Args:
        scalars: as for `with_means`.
        bests: name of the largest -> the metrics that it is the largest of.
    """
    found = dict(scalars)
    for best, names in bests.items():
        largest = best_of(scalars, names)
        found |= {best: scalars[largest], f"{best}_error": scalars[f"{largest}_error"]}
    return found


def best_of(scalars: Mapping[str, float], names: Sequence[str]) -> str:
    """Which of these metrics is the largest; of equal ones the first."""
    return max(names, key=lambda name: scalars[name])


def best_head_line(scalars: Mapping[str, float], names: Sequence[str]) -> str:
    """A sentence on the best of several heads, by the metrics HEAD/METRIC in `names`; "" if there is only one."""
    if len(names) < 2:
        return ""
    best = best_of(scalars, names)
    head, _, metric = best.partition("/")
    accuracy = percent(scalars[best], scalars[f"{best}_error"])
    return f"best head: {head}, {metric} {accuracy}; chosen of {len(names)} on these examples, so slightly optimistic"


def check_best_metric(best_metric: str, num_classes: Mapping[str, int]) -> None:
    """Refuses the top-5 of a dataset that has none. Only the opened data says how many classes there are.

    Raises:
        ConfigError: config.best_metric is such a metric.
    """
    name, _, kind = best_metric.rpartition("/")
    if kind == "top5" and num_classes[name] <= TOP_K:
        raise ConfigError(
            f"config.best_metric={best_metric!r}: {name} has {num_classes[name]} classes, so top-5 is always 100 %; "
            f"must be mean_top1, {name}/top1 or {name}/mean_class"
        )
