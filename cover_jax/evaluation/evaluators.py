"""What is measured at each evaluation beside the accuracy of the heads: `config.evaluators`."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from cover_jax.config import plugins
from cover_jax.models.cover import Functional
from cover_jax.tasks import metrics
from data_pipelines.stream import records

# Parameters of the model -> {"DATASET/METRIC": value}; the same on all hosts.
Measure = Callable[[Any], dict[str, float]]


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """What an evaluator may use.

    Attributes:
        config: the whole config.
        model: the model as pure functions.
        train_splits: dataset -> its opened training split, without leaks.
        eval_splits: dataset -> its opened evaluation split; a dataset without one has no entry.
        mesh: where parameters and batches are.
    """

    config: ConfigDict
    model: Functional
    train_splits: Mapping[str, records.Split]
    eval_splits: Mapping[str, records.Split]
    mesh: Mesh


def make(run: EvaluatedRun) -> dict[str, Measure]:
    """Name -> measure, of `config.evaluators` without "accuracy", which is `evaluator.Evaluator`.

    Raises:
        ConfigError: a package that one of them needs is not installed.
    """
    names = tuple(run.config.evaluators)
    plugins.check_packages("evaluators", names, plugins.EVALUATORS)
    return {name: plugins.EVALUATORS[name].load().make(run) for name in names if name != plugins.ACCURACY}


def measure_all(measures: Mapping[str, Measure], params) -> dict[str, float]:
    """What all of them measure, in their order."""
    return {key: value for measure in measures.values() for key, value in measure(params).items()}


def with_columns(rows: Sequence[dict[str, str]], measured: Mapping[str, float]) -> list[dict[str, str]]:
    """The rows of the table of accuracies, one per "dataset", with a column for each metric.

    A metric NAME with NAME_error beside it is a share, 0..1, with its standard error.
    """
    kinds = [kind for kind in dict.fromkeys(key.partition("/")[2] for key in measured) if not kind.endswith("_error")]

    def cell(key: str) -> str:
        if key not in measured:
            return ""
        error = measured.get(f"{key}_error")
        return f"{measured[key]:.4g}" if error is None else metrics.percent(measured[key], error)

    return [row | {kind.replace("_", " "): cell(f"{row['dataset']}/{kind}") for kind in kinds} for row in rows]
