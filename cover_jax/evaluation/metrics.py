"""Accuracies of training and evaluation: sums and counts are merged first and divided last."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

# B batch, C classes, N examples, S side of a matrix

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
    def accuracies(self) -> dict[str, float]:
        """top1, top5 and mean_class (the mean over classes of the accuracy per class), each 0..1."""
        if not len(self.index):
            return {"top1": float("nan"), "top5": float("nan"), "mean_class": float("nan")}
        hits, totals = self.hits, np.bincount(self.label)
        present = totals > 0
        per_class = np.bincount(self.label, hits)[present] / totals[present]
        return {"top1": float(hits.mean()), "top5": float(self.hit5.mean()), "mean_class": float(np.mean(per_class))}

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
    """One dataset's row in the table of accuracies."""
    found = predictions.accuracies
    return {
        "dataset": name, "classes": str(num_classes), "examples": str(len(predictions.index)),
        "chance": f"{1 / num_classes:.1%}", "top-1": f"{found['top1']:.1%}", "top-5": f"{found['top5']:.1%}",
        "mean class": f"{found['mean_class']:.1%}",
    }  # fmt: skip
