"""Exactly one class per clip: softmax, cross-entropy, top-1 accuracy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cover_jax.tasks import metrics
from cover_jax.tasks.task import Batch, Task

# B batch, C classes

_NEVER = -1  # no class: such a clip must not be mirrored


class Multiclass(Task):
    """Exactly one class per clip."""

    name = "multiclass"
    titles = {"top1": "top-1", "top5": "top-5", "mean_class": "mean over classes"}
    train_metric = "top1"
    hub_metrics = dict.fromkeys(titles, "accuracy")
    hub_problem = None
    activation, torch_activation = "softmax", "softmax(-1)"
    stored = {
        "index": np.int32, "label": np.int32, "top1": np.int32, "hit5": np.bool_, "label_probability": np.float32,
        "top1_probability": np.float32,
    }  # fmt: skip
    predictions = metrics.Predictions
    curves = ("top1", "top5")
    worst, best = "the true class has the lowest probability", "it has the highest"

    @property
    def described(self) -> dict[str, str]:
        """Nothing: softmax, as in version 0.1.0."""
        return {}

    def answers(self, batch: Batch) -> jax.Array:
        """The labels, int32 [B]; -1 for a label that is not published."""
        return batch["label"]

    def mirror(self, answers: jax.Array, mirrored_C: jax.Array, flip_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        """See `Task`. An unknown class has no mirrored class."""
        mirrored_B = mirrored_C.at[answers].get(mode="fill", fill_value=_NEVER, wrap_negative_indices=False)
        flip_B &= mirrored_B != _NEVER
        return flip_B, jnp.where(flip_B, mirrored_B, answers)

    def targets(self, answers: jax.Array, num_classes: int, label_smoothing: float) -> jax.Array:
        """Distributions that sum to 1 per example with a label in range."""
        return jax.nn.one_hot(answers, num_classes) * (1 - label_smoothing) + label_smoothing / num_classes

    def loss(self, logits_BC: jax.Array, targets_BC: jax.Array) -> jax.Array:
        """Softmax cross-entropy."""
        loss_B: jax.Array = optax.softmax_cross_entropy(logits_BC, targets_BC)
        return loss_B

    def hits(self, logits_BC: jax.Array, answers: jax.Array) -> jax.Array:
        """Top-1: 1 where the label has the highest logit."""
        return metrics.top_k_hits(logits_BC, answers, 1)

    def probabilities(self, logits_BC: jax.Array) -> jax.Array:
        """Softmax: they sum to 1."""
        return jax.nn.softmax(logits_BC)

    def predict(self, probabilities_BC: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """See `metrics.Predictions`."""
        return {
            "top1": jnp.argmax(probabilities_BC, axis=-1),
            "hit5": metrics.top_k_hits(probabilities_BC, batch["label"], 5),
            "label_probability": jnp.take_along_axis(probabilities_BC, batch["label"][:, None], axis=1)[:, 0],
            "top1_probability": jnp.max(probabilities_BC, axis=-1),
        }

    def row(self, name: str, num_classes: int, predictions: Any) -> dict[str, str]:
        """See `metrics.accuracy_row`."""
        return metrics.accuracy_row(name, num_classes, predictions)

    def measure(self, predictions: Any) -> tuple[float, float]:
        """Top-1."""
        top1 = float(predictions.hits.mean())
        return top1, metrics.binomial_error(top1, len(predictions.hits))

    def error_of(self, metric: str, value: float, num_examples: float) -> float | None:
        """That of shares of all examples."""
        return None if metric == "mean_class" else metrics.binomial_error(value, num_examples)

    def difference(self, here: Any, there: Any) -> tuple[float, float]:
        """Top-1. The standard error is that of the mean difference per example."""
        difference_N = here.hits.astype(float) - there.hits.astype(float)
        return float(difference_N.mean()), metrics.standard_error(difference_N)

    def sureness(self, predictions: Any) -> np.ndarray:
        """Probability of the label."""
        sure_N: np.ndarray = predictions.label_probability
        return sure_N

    def told(self, predictions: Any, row: int) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
        """The label, and the most probable class if that is another."""
        label, top1 = predictions.label[row], predictions.top1[row]
        wrong = [(top1, predictions.top1_probability[row])] if top1 != label else []
        return [(label, predictions.label_probability[row])], wrong

    def confusion(self, predictions: Any, num_classes: int) -> np.ndarray | None:
        """Counts: rows are true classes, columns are predicted classes."""
        counts: np.ndarray = predictions.confusion(num_classes)
        return counts

    def chance(self, num_classes: int) -> float | None:
        """Of a guess among all classes."""
        return 1 / num_classes

    def limits(self, num_classes: int) -> str:
        """See `Task`."""
        return (
            f"It always predicts one of its {num_classes} classes, for any input. Its probabilities are not calibrated."
        )
