"""What every kind of task has. The rest of the package asks a dataset's task (`registry.of`), never for its name."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

# B batch, C classes, N examples

Batch = Mapping[str, jax.Array]  # a Batch of data_pipelines/stream/batch.py, on the device


class Part(NamedTuple):
    """Some of the classes of a head: of these, one is right."""

    name: str  # "" if they are all classes
    columns: slice


class Task(abc.ABC):
    """One kind of task.

    Args:
        heads: config.datasets.NAME.heads; only `multihead.Multihead` has several.

    Attributes:
        name: in configs (config.datasets.NAME.task), checkpoints and saved predictions.
        titles: each metric of an evaluation -> its title in tables. The first one is the main metric.
        train_metric: the metric of `hits`, one of `titles`.
        hub_metrics: metric -> its type in model cards, as at huggingface.co/metrics where it is there.
        hub_problem: Hugging Face's `problem_type` of a model with such a head; None: its default.
        activation: name of the function from logits to probabilities in jax.nn and tf.nn.
        torch_activation: the same as a call of a method of a tensor of PyTorch.
        stored: field of its predictions -> type in a file of saved predictions.
        predictions: class of its predictions (`metrics.Predictions`), made by `make`.
        curves: those of `titles` that the report draws over the steps.
        worst, best: what the report says of the examples with the lowest and the highest `sureness`.
        has_heads: whether config.datasets.NAME.heads names its heads.
        several_labels: whether an example may have several labels: then a batch has `targets`.
    """

    name: ClassVar[str]
    titles: Mapping[str, str]
    train_metric: ClassVar[str]
    hub_metrics: Mapping[str, str]
    hub_problem: ClassVar[str | None]
    activation: ClassVar[str]
    torch_activation: ClassVar[str]
    stored: ClassVar[Mapping[str, Any]]
    predictions: ClassVar[Any]
    curves: tuple[str, ...]
    worst: ClassVar[str]
    best: ClassVar[str]
    several_labels: ClassVar[bool] = False
    has_heads: ClassVar[bool] = False

    def __init__(self, heads: str = ""):  # noqa: B027  # only some tasks have heads
        """See the class."""

    @property
    def described(self) -> dict[str, str]:
        """What config.json of an exported program says of the logits."""
        return {"task": self.name, "probabilities": f"{self.activation} of the logits"}

    @property
    def main_metric(self) -> str:
        """The first of `titles`: what curves, cards and comparisons show."""
        return next(iter(self.titles))

    def make(self, columns: Mapping[str, np.ndarray]) -> Any:
        """Predictions with these fields, an array [N, ...] for each of `stored`."""
        return self.predictions(**columns)

    def parts(self, num_classes: int) -> tuple[Part, ...]:
        """The classes that compete with each other; a clip is predicted part by part."""
        return (Part("", slice(0, num_classes)),)

    def in_code(self, framework: str) -> str:
        """The probabilities of `logits` [clips, C] in code, for "jax", "tensorflow" or "torch"."""
        module = {"jax": "jax.nn", "tensorflow": "tf.nn"}.get(framework)
        return f"{module}.{self.activation}(logits)" if module else f"logits.{self.torch_activation}"

    @abc.abstractmethod
    def answers(self, batch: Batch) -> jax.Array:
        """What the examples of a batch are labelled with, [B, ...]."""

    @abc.abstractmethod
    def mirror(self, answers: jax.Array, mirrored_C: jax.Array, flip_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Which of the examples in `flip_B` may be mirrored, bool [B], and all answers after that.

        Args:
            answers: from `answers`.
            mirrored_C: class -> class of the mirrored clip; less than 0 where a clip must not be mirrored.
            flip_B: which examples are to be mirrored.
        """

    @abc.abstractmethod
    def targets(self, answers: jax.Array, num_classes: int, label_smoothing: float) -> jax.Array:
        """What the loss compares with: float32 [B, C]. Mixup and cutmix mix the rows of two examples."""

    @abc.abstractmethod
    def loss(self, logits_BC: jax.Array, targets_BC: jax.Array) -> jax.Array:
        """The loss of each example, float32 [B]."""

    @abc.abstractmethod
    def hits(self, logits_BC: jax.Array, answers: jax.Array) -> jax.Array:
        """The training metric of each example, float32 [B] of values 0..1."""

    @abc.abstractmethod
    def probabilities(self, logits_BC: jax.Array) -> jax.Array:
        """Probability of each class, [B, C]."""

    @abc.abstractmethod
    def predict(self, probabilities_BC: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """The fields of `predictions` beside index and label, for an evaluation batch, each [B, ...]."""

    @abc.abstractmethod
    def row(self, name: str, num_classes: int, predictions: Any) -> dict[str, str]:
        """Column -> cell: the dataset's row in the table of an evaluation."""

    @abc.abstractmethod
    def measure(self, predictions: Any) -> tuple[float, float]:
        """The main metric of some predictions, and its standard error."""

    def error_of(self, metric: str, value: float, num_examples: float) -> float | None:
        """The standard error of a metric's value where only the number of examples is known; None: not enough."""
        return None

    @abc.abstractmethod
    def difference(self, here: Any, there: Any) -> tuple[float, float]:
        """The main metric of `here` minus that of `there`, predictions of the same examples, and its standard error."""

    @abc.abstractmethod
    def sureness(self, predictions: Any) -> np.ndarray:
        """How well the model knows each example, float [N]: the lowest is the worst."""

    @abc.abstractmethod
    def told(self, predictions: Any, row: int) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
        """(class, probability) of the classes that an example has, and of those that it is wrongly said to have."""

    @abc.abstractmethod
    def confusion(self, predictions: Any, num_classes: int) -> np.ndarray | None:
        """How often which class was taken for which, as `metrics.Predictions.confusion`; None: this task has none."""

    @abc.abstractmethod
    def chance(self, num_classes: int) -> float | None:
        """The main metric of a random guess; None: it depends on the data."""

    @abc.abstractmethod
    def limits(self, num_classes: int) -> str:
        """What the answers of such a head mean, in a sentence for a model card."""
