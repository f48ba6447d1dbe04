"""Any number of classes per clip: sigmoid, binary cross-entropy, mean average precision (as in Charades)."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cover_jax.tasks import metrics
from cover_jax.tasks.task import Batch, Task

# B batch, C classes, N examples

JACKKNIFE_GROUPS = 20  # this project's choice


@dataclasses.dataclass(frozen=True)
class MultilabelPredictions:
    """A model's predictions, one per example of a split, in the order of `index`."""

    index: np.ndarray  # int [N], position in the split
    label: np.ndarray  # int [N], the first of the example's labels; -1 if it has none
    scores: np.ndarray  # float32 [N, C], probability of each class
    targets: np.ndarray  # bool [N, C], which classes the example has

    @functools.cached_property
    def losses(self) -> np.ndarray:
        """float64 [N]: binary cross-entropy of each example, the sum over classes, in nats."""
        least = np.finfo(np.float32).tiny
        wrong_NC = np.where(self.targets, self.scores, 1 - self.scores.astype(np.float64))
        return -np.log(np.maximum(wrong_NC, least)).sum(axis=1)

    @property
    def loss(self) -> float:
        """The mean of `losses`; NaN without examples."""
        return float(self.losses.mean()) if len(self.index) else math.nan

    @property
    def hits(self) -> np.ndarray:
        """bool [N]: where the class with the highest probability is one of the labels."""
        return self.targets[np.arange(len(self.index)), self.scores.argmax(axis=1)]

    @functools.cached_property
    def average_precisions(self) -> np.ndarray:
        """Average precision of each class, [C]; NaN for a class that no example has."""
        return Ranking(self.scores, self.targets).average_precisions(np.ones(len(self.index), bool))

    def accuracies(self, num_classes: int) -> dict[str, float]:
        """Each 0..1: map, the mean over classes that occur of their average precision, and hit1, the mean of `hits`."""
        del num_classes  # it is C
        if not len(self.index):
            return {"map": math.nan, "hit1": math.nan}
        return {"map": mean_of_present(self.average_precisions), "hit1": float(self.hits.mean())}

    def errors(self, num_classes: int) -> dict[str, float]:
        """The standard error of each of `accuracies`: of map by the jackknife (`jackknife_error`)."""
        if not len(self.index):
            return {"map": math.nan, "hit1": math.nan}
        hit1 = self.accuracies(num_classes)["hit1"]
        return {"map": jackknife_error(self), "hit1": metrics.binomial_error(hit1, len(self.index))}

    def scalars(self, num_classes: int) -> dict[str, float]:
        """As `metrics.Predictions.scalars`."""
        errors = {f"{kind}_error": value for kind, value in self.errors(num_classes).items()}
        return self.accuracies(num_classes) | errors | {"loss": self.loss, "examples": len(self.index)}


class Ranking:
    """Examples sorted by their score, for each class.

    Args:
        scores_NC: of each example and class.
        targets_NC: which classes each example has.
    """

    def __init__(self, scores_NC: np.ndarray, targets_NC: np.ndarray):
        self._order_NC = np.argsort(-scores_NC, axis=0, kind="stable")  # NaN scores come last
        sorted_NC = np.take_along_axis(scores_NC, self._order_NC, axis=0)
        self._has_NC = np.take_along_axis(targets_NC, self._order_NC, axis=0)
        # Equal scores are one threshold, as in sklearn.metrics.average_precision_score: where each such group ends.
        is_end_NC = np.ones(sorted_NC.shape, bool)
        is_end_NC[:-1] = sorted_NC[:-1] != sorted_NC[1:]
        ends_NC = np.where(is_end_NC, np.arange(len(sorted_NC))[:, None], len(sorted_NC))
        self._ends_NC = np.minimum.accumulate(ends_NC[::-1], axis=0)[::-1]

    def average_precisions(self, keep_N: np.ndarray) -> np.ndarray:
        """Average precision of each class over the examples in `keep_N`, [C]; NaN where none of them has the class.

        It is the mean, over the examples that have the class, of the precision among all that score at least as high.
        """
        keep_NC = keep_N[self._order_NC]
        right_NC = self._has_NC & keep_NC
        found_NC, seen_NC = (np.take_along_axis(x.cumsum(axis=0), self._ends_NC, axis=0) for x in (right_NC, keep_NC))
        count_C = right_NC.sum(axis=0)
        sum_C = np.where(right_NC, found_NC / np.maximum(seen_NC, 1), 0.0).sum(axis=0)
        return np.where(count_C > 0, sum_C / np.maximum(count_C, 1), np.nan)


def mean_of_present(average_precisions_C: np.ndarray) -> float:
    """Mean over the classes that occur: gsig/charades-algorithms, pytorch/utils/map.py; NaN if none does.

    That script also leaves out the examples without a label. Here they count: a high score for one is a mistake.
    """
    present_C = average_precisions_C[~np.isnan(average_precisions_C)]
    return float(present_C.mean()) if len(present_C) else math.nan


def jackknife_error(here: MultilabelPredictions, there: MultilabelPredictions | None = None) -> float:
    """Standard error of the mean average precision, or of its difference from that of `there` on the same examples.

    By the delete-a-group jackknife: the value is computed without each of JACKKNIFE_GROUPS equal parts of the examples.
    NaN for fewer than two examples.
    """
    num_groups = min(JACKKNIFE_GROUPS, len(here.index))
    if num_groups < 2:
        return math.nan
    group_N = np.arange(len(here.index)) % num_groups  # neighbours, which are often of one class, are in several
    signs = [(1, here), *([] if there is None else [(-1, there)])]
    rankings = [(sign, Ranking(one.scores, one.targets)) for sign, one in signs]
    values = np.array([
        sum(sign * mean_of_present(ranking.average_precisions(group_N != group)) for sign, ranking in rankings)
        for group in range(num_groups)
    ])  # fmt: skip
    return math.sqrt((num_groups - 1) / num_groups * float(np.sum((values - values.mean()) ** 2)))


def _examples(predictions: MultilabelPredictions) -> str:
    """The number of examples; and of those without a label, which count here and not in Charades' own script."""
    unlabelled = int((predictions.targets.sum(axis=1) == 0).sum())
    every = str(len(predictions.index))
    return f"{every} (no label: {unlabelled})" if unlabelled else every


class Multilabel(Task):
    """Any number of classes per clip."""

    name = "multilabel"
    titles = {"map": "mAP", "hit1": "Hit@1"}
    train_metric = "hit1"
    hub_metrics = titles
    hub_problem = "multi_label_classification"
    activation, torch_activation = "sigmoid", "sigmoid()"
    stored = {"index": np.int32, "label": np.int32, "scores": np.float32, "targets": np.bool_}
    predictions = MultilabelPredictions
    curves = ("map", "hit1")
    worst, best = "the loss over all classes is the highest", "it is the lowest"
    several_labels = True

    def answers(self, batch: Batch) -> jax.Array:
        """Which classes each example has, float32 [B, C] of values 0 and 1."""
        return batch["targets"]

    def mirror(self, answers: jax.Array, mirrored_C: jax.Array, flip_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `mirror_columns`."""
        return mirror_columns(answers, mirrored_C, flip_B)

    def targets(self, answers: jax.Array, num_classes: int, label_smoothing: float) -> jax.Array:
        """Each class on its own goes towards 1/2: as `label_smoothing` of keras.losses.BinaryCrossentropy."""
        return answers * (1 - label_smoothing) + label_smoothing / 2

    def loss(self, logits_BC: jax.Array, targets_BC: jax.Array) -> jax.Array:
        """Binary cross-entropy, the sum over classes: google-research/big_vision, utils.py, `sigmoid_xent`."""
        loss_B: jax.Array = jnp.sum(optax.sigmoid_binary_cross_entropy(logits_BC, targets_BC), axis=-1)
        return loss_B

    def hits(self, logits_BC: jax.Array, answers: jax.Array) -> jax.Array:
        """Hit@1 (YouTube-8M, arXiv 1609.08675): 1 where the class with the highest logit is one of the labels."""
        best_B = jnp.argmax(logits_BC, axis=-1)
        return jnp.take_along_axis(answers, best_B[:, None], axis=1)[:, 0]

    def probabilities(self, logits_BC: jax.Array) -> jax.Array:
        """Sigmoid: of each class on its own."""
        return jax.nn.sigmoid(logits_BC)

    def predict(self, probabilities_BC: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """See `MultilabelPredictions`."""
        return {"scores": probabilities_BC, "targets": batch["targets"] > 0}

    def row(self, name: str, num_classes: int, predictions: Any) -> dict[str, str]:
        """See `Task`. Chance is the mean share of examples that have a class: mAP of a random order."""
        errors = predictions.errors(num_classes)
        found = {
            kind: metrics.percent(value, errors[kind]) for kind, value in predictions.accuracies(num_classes).items()
        }
        share_C = predictions.targets.mean(axis=0) if len(predictions.index) else np.zeros(0)
        return {
            "dataset": name, "classes": str(num_classes), "examples": _examples(predictions),
            "labels per example": f"{share_C.sum():.2f}", "chance": f"{mean_of_present(share_C[share_C > 0]):.1%}",
            "mAP": found["map"], "Hit@1": found["hit1"], "loss": f"{predictions.loss:.3f}",
        }  # fmt: skip

    def measure(self, predictions: Any) -> tuple[float, float]:
        """mAP."""
        return mean_of_present(predictions.average_precisions), jackknife_error(predictions)

    def difference(self, here: Any, there: Any) -> tuple[float, float]:
        """Of mAP. The standard error is that of the jackknife over the same groups of examples."""
        return self.measure(here)[0] - self.measure(there)[0], jackknife_error(here, there)

    def sureness(self, predictions: Any) -> np.ndarray:
        """Minus the loss of each example."""
        losses_N: np.ndarray = predictions.losses
        return -losses_N

    def told(self, predictions: Any, row: int) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
        """Its labels, L of them; and those of the L (at least one) most probable classes that it does not have."""
        scores_C, has_C = predictions.scores[row], predictions.targets[row]
        said = np.argsort(-scores_C, kind="stable")[: max(1, has_C.sum())]
        true = [(int(i), float(scores_C[i])) for i in np.flatnonzero(has_C)]
        return true, [(int(i), float(scores_C[i])) for i in said if not has_C[i]]

    def confusion(self, predictions: Any, num_classes: int) -> np.ndarray | None:
        """None: a clip with several classes is not taken for another class."""
        return None

    def chance(self, num_classes: int) -> float | None:
        """None: it is the share of examples that have a class."""
        return None

    def limits(self, num_classes: int) -> str:
        """See `Task`."""
        each = f"It gives each of its {num_classes} classes a probability of its own, for any input"
        return f"{each}; which of them hold needs a threshold. Its probabilities are not calibrated."


def mirror_columns(answers: jax.Array, mirrored_C: jax.Array, flip_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`Task.mirror` of answers [B, C]: the columns change places. A clip needs a mirror of all its classes."""
    num_classes = answers.shape[1]
    flip_B &= ~jnp.any((answers > 0) & (mirrored_C < 0), axis=1)
    column_C = jnp.where(mirrored_C < 0, num_classes, mirrored_C)  # out of range: dropped
    mirrored_BC = jnp.zeros_like(answers).at[:, column_C].set(answers, mode="drop")
    return flip_B, jnp.where(flip_B[:, None], mirrored_BC, answers)
