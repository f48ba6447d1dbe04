"""Several heads per dataset, such as a verb and a noun (EPIC-KITCHENS-100): exactly one class of each head.

The classes of all heads stand one after another, "verb: cut", "noun: knife", and so do their logits: with linear heads,
the columns of one matrix. The heads share nothing else than the features.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cover_jax.tasks import metrics, multilabel
from cover_jax.tasks.head_list import HeadList
from cover_jax.tasks.task import Batch, Part, Task

# B batch, C classes of all heads, c classes of one head, N examples, H heads


@dataclasses.dataclass(frozen=True)
class MultiheadPredictions:
    """A model's predictions, one per example of a split, in the order of `index`. Classes count within their head."""

    index: np.ndarray  # int [N], position in the split
    label: np.ndarray  # int [N], the class of the first head, among the classes of all heads
    labels: np.ndarray  # int [N, H]; -1 if it is not published
    top1: np.ndarray  # int [N, H], the class with the highest probability
    hit5: np.ndarray  # bool [N, H]: where the label is among the five highest
    label_probability: np.ndarray  # float32 [N, H], 0..1
    top1_probability: np.ndarray  # float32 [N, H], 0..1
    heads: str  # config.datasets.NAME.heads

    @property
    def hits(self) -> np.ndarray:
        """bool [N]: where all heads are right."""
        return (self.top1 == self.labels).all(axis=1)

    @property
    def labelled(self) -> np.ndarray:
        """bool [N]: where the labels of all heads are published. Of others nobody can say whether all are right."""
        return np.asarray(np.all(self.labels >= 0, axis=1))

    def of_head(self, number: int) -> metrics.Predictions:
        """The predictions of one head, for the examples that have a label of it."""
        known = self.labels[:, number] >= 0
        columns = (self.labels, self.top1, self.hit5, self.label_probability, self.top1_probability)
        return metrics.Predictions(self.index[known], *(column[known, number] for column in columns))

    @functools.cached_property
    def of_heads(self) -> dict[str, tuple[int, metrics.Predictions]]:
        """Head -> number of its classes, and its predictions."""
        heads = HeadList.parse(self.heads)
        return {head.name: (head.num_classes, self.of_head(i)) for i, head in enumerate(heads)}

    @property
    def loss(self) -> float:
        """The sum over heads, each with its weight, of their losses (`metrics.Predictions.loss`)."""
        weights = {head.name: head.weight for head in HeadList.parse(self.heads)}
        return sum(weights[name] * of_head.loss for name, (_, of_head) in self.of_heads.items())

    def accuracies(self, num_classes: int) -> dict[str, float]:
        """Each 0..1: joint_top1, the share of `labelled` with all heads right, and HEAD_KIND of each head."""
        del num_classes  # each head has its own
        joint = float(self.hits[self.labelled].mean()) if self.labelled.any() else math.nan
        of_heads = {
            f"{name}_{kind}": value
            for name, (classes, of_head) in self.of_heads.items()
            for kind, value in of_head.accuracies(classes).items()
        }
        return {"joint_top1": joint} | of_heads

    def errors(self, num_classes: int) -> dict[str, float]:
        """The standard error of each of `accuracies`."""
        joint = metrics.binomial_error(self.accuracies(num_classes)["joint_top1"], int(self.labelled.sum()))
        of_heads = {
            f"{name}_{kind}": value
            for name, (classes, of_head) in self.of_heads.items()
            for kind, value in of_head.errors(classes).items()
        }
        return {"joint_top1": joint} | of_heads

    def scalars(self, num_classes: int) -> dict[str, float]:
        """As `metrics.Predictions.scalars`."""
        errors = {f"{kind}_error": value for kind, value in self.errors(num_classes).items()}
        unlabelled = int((~self.labelled).sum())
        counts = {"examples": len(self.index)} | ({"examples_left_out": unlabelled} if unlabelled else {})
        return self.accuracies(num_classes) | errors | {"loss": self.loss} | counts


def _examples(predictions: MultiheadPredictions) -> str:
    """The number of examples; those of which not all labels are published have no part in joint top-1."""
    left_out = int((~predictions.labelled).sum())
    every = str(len(predictions.index))
    return f"{every} (joint: {len(predictions.index) - left_out})" if left_out else every


class Multihead(Task):
    """Exactly one class of each of several heads.

    Args:
        heads: config.datasets.NAME.heads.
    """

    name = "multihead"
    train_metric = "joint_top1"
    hub_problem = None
    activation, torch_activation = "softmax of each head", ""  # Hugging Face has no such classifier
    stored = {
        "index": np.int32, "label": np.int32, "labels": np.int32, "top1": np.int32, "hit5": np.bool_,
        "label_probability": np.float32, "top1_probability": np.float32,
    }  # fmt: skip
    predictions = MultiheadPredictions
    worst, best = "the product of the true classes' probabilities is the lowest", "it is the highest"
    several_labels = has_heads = True

    def __init__(self, heads: str):
        self.heads = HeadList.parse(heads)
        kinds = {"top1": "top-1", "top5": "top-5", "mean_class": "mean over classes"}
        of_heads = {
            f"{head.name}_{kind}": f"{head.name} {title}"
            for head in self.heads
            for kind, title in kinds.items()
            if kind != "top5" or head.num_classes > metrics.TOP_K  # otherwise it is always 100 %
        }
        self.titles: Mapping[str, str] = {"joint_top1": "joint top-1"} | of_heads
        self.hub_metrics = dict.fromkeys(self.titles, "accuracy")
        self.curves = ("joint_top1", *(f"{head.name}_top1" for head in self.heads))
        self._text = heads

    @property
    def described(self) -> dict[str, str]:
        """See `Task`. Also the heads."""
        return super().described | {"heads": self._text}

    def make(self, columns: Mapping[str, np.ndarray]) -> Any:
        """See `Task`. The predictions know the heads."""
        return self.predictions(**columns, heads=self._text)

    def in_code(self, framework: str) -> str:
        """See `Task`."""
        sizes = [head.num_classes for head in self.heads]
        if framework == "jax":
            ends = np.cumsum(sizes)[:-1].tolist()
            return f"np.concatenate([jax.nn.softmax(part) for part in np.split(logits, {ends}, axis=-1)], axis=-1)"
        return f"tf.concat([tf.nn.softmax(part) for part in tf.split(logits, {sizes}, axis=-1)], axis=-1)"

    def parts(self, num_classes: int) -> tuple[Part, ...]:
        """The classes of each head."""
        return tuple(Part(head.name, columns) for head, columns in self._columns())

    def _columns(self):
        """Each head, and the slice of its classes."""
        first = 0
        for head in self.heads:
            yield head, slice(first, first + head.num_classes)
            first += head.num_classes

    def _labels(self, answers: jax.Array) -> jax.Array:
        """The class of each head, counted within the head, int32 [B, H]; -1 if it is not known."""
        found = [
            jnp.where(jnp.any(answers[:, columns] > 0, axis=1), jnp.argmax(answers[:, columns], axis=1), -1)
            for _, columns in self._columns()
        ]
        return jnp.stack(found, axis=1).astype(jnp.int32)

    def answers(self, batch: Batch) -> jax.Array:
        """The class of each head, float32 [B, C] of values 0 and 1."""
        return batch["targets"]

    def mirror(self, answers: jax.Array, mirrored_C: jax.Array, flip_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        """As for several labels: a clip may be mirrored if the class of each head has a mirrored class."""
        return multilabel.mirror_columns(answers, mirrored_C, flip_B)

    def targets(self, answers: jax.Array, num_classes: int, label_smoothing: float) -> jax.Array:
        """A distribution per head; label smoothing spreads over the head's classes. Zeros where there is no label."""
        parts = []
        for head, columns in self._columns():
            known_B1 = jnp.any(answers[:, columns] > 0, axis=1, keepdims=True)
            smoothed = answers[:, columns] * (1 - label_smoothing) + label_smoothing / head.num_classes
            parts.append(jnp.where(known_B1, smoothed, 0.0))
        return jnp.concatenate(parts, axis=1)

    def loss(self, logits_BC: jax.Array, targets_BC: jax.Array) -> jax.Array:
        """The sum over heads, each with its weight, of the softmax cross-entropy."""
        losses = [
            head.weight * optax.softmax_cross_entropy(logits_BC[:, columns], targets_BC[:, columns])
            for head, columns in self._columns()
        ]
        loss_B: jax.Array = sum(losses[1:], losses[0])
        return loss_B

    def hits(self, logits_BC: jax.Array, answers: jax.Array) -> jax.Array:
        """1 where all heads are right."""
        labels_BH = self._labels(answers)
        right = [
            metrics.top_k_hits(logits_BC[:, columns], jnp.maximum(labels_BH[:, i], 0), 1) * (labels_BH[:, i] >= 0)
            for i, (_, columns) in enumerate(self._columns())
        ]
        return jnp.prod(jnp.stack(right), axis=0)

    def probabilities(self, logits_BC: jax.Array) -> jax.Array:
        """Softmax of each head: the probabilities of its classes sum to 1."""
        return jnp.concatenate([jax.nn.softmax(logits_BC[:, columns]) for _, columns in self._columns()], axis=1)

    def predict(self, probabilities_BC: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """See `MultiheadPredictions`."""
        labels_BH = self._labels(batch["targets"])
        found: dict[str, list[jax.Array]] = {"top1": [], "hit5": [], "label_probability": [], "top1_probability": []}
        for i, (_, columns) in enumerate(self._columns()):
            part_Bc, label_B = probabilities_BC[:, columns], jnp.maximum(labels_BH[:, i], 0)
            found["top1"].append(jnp.argmax(part_Bc, axis=1))
            found["hit5"].append(metrics.top_k_hits(part_Bc, label_B, metrics.TOP_K))
            found["label_probability"].append(jnp.take_along_axis(part_Bc, label_B[:, None], axis=1)[:, 0])
            found["top1_probability"].append(jnp.max(part_Bc, axis=1))
        return {"labels": labels_BH} | {key: jnp.stack(columns, axis=1) for key, columns in found.items()}

    def row(self, name: str, num_classes: int, predictions: Any) -> dict[str, str]:
        """See `Task`."""
        errors = predictions.errors(num_classes)
        values, chance = predictions.accuracies(num_classes), self.chance(num_classes)
        found = {kind: metrics.percent(value, errors[kind]) for kind, value in values.items()}
        return {
            "dataset": name, "classes": " + ".join(str(head.num_classes) for head in self.heads),
            "examples": _examples(predictions), "chance": f"{chance:.1%}",
            **{self.titles[kind]: found[kind] for kind in self.titles if kind in found and "mean_class" not in kind},
            "loss": f"{predictions.loss:.3f}",
        }  # fmt: skip

    def measure(self, predictions: Any) -> tuple[float, float]:
        """Joint top-1."""
        joint, labelled = predictions.accuracies(0)["joint_top1"], int(predictions.labelled.sum())
        return joint, metrics.binomial_error(joint, labelled)

    def error_of(self, metric: str, value: float, num_examples: float) -> float | None:
        """That of shares of all examples."""
        return None if metric.endswith("mean_class") else metrics.binomial_error(value, num_examples)

    def difference(self, here: Any, there: Any) -> tuple[float, float]:
        """Joint top-1. The standard error is that of the mean difference per example."""
        difference_N = (here.hits.astype(float) - there.hits.astype(float))[here.labelled]
        if not len(difference_N):
            return math.nan, math.nan
        return float(difference_N.mean()), metrics.standard_error(difference_N)

    def sureness(self, predictions: Any) -> np.ndarray:
        """Product over heads of the probability of the label."""
        sure_N: np.ndarray = predictions.label_probability.prod(axis=1)
        return sure_N

    def told(self, predictions: Any, row: int) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
        """The label of each head that has one, and the most probable class of each head that is wrong."""
        true, wrong = [], []
        for i, (_, columns) in enumerate(self._columns()):
            label, top1 = int(predictions.labels[row, i]), int(predictions.top1[row, i])
            if label < 0:  # not published: nothing is wrong
                continue
            true.append((columns.start + label, float(predictions.label_probability[row, i])))
            if top1 != label:
                wrong.append((columns.start + top1, float(predictions.top1_probability[row, i])))
        return true, wrong

    def confusion(self, predictions: Any, num_classes: int) -> np.ndarray | None:
        """None: each head has its own; the report shows them."""
        return None

    def chance(self, num_classes: int) -> float:
        """Of a guess among all combinations."""
        return 1 / math.prod(head.num_classes for head in self.heads)

    def limits(self, num_classes: int) -> str:
        """See `Task`."""
        heads = " and ".join(f"one of {head.num_classes} classes of `{head.name}`" for head in self.heads)
        return f"It always predicts {heads}, for any input. Its probabilities are not calibrated."
