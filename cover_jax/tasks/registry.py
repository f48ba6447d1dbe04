"""The tasks by name: config.datasets.NAME.task. A task of your own is a module, and a line in TASKS.

Nothing here loads JAX, so the schema of configs can read the names.
"""

import functools
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

if TYPE_CHECKING:
    from cover_jax.tasks.task import Task

# Name -> "module:class". Of several whose predictions are of the same class, the first one reads saved predictions.
TASKS: Mapping[str, str] = {
    "multiclass": "cover_jax.tasks.multiclass:Multiclass",
    "multilabel": "cover_jax.tasks.multilabel:Multilabel",
    "multihead": "cover_jax.tasks.multihead:Multihead",
}
DEFAULT = "multiclass"  # the only task of versions up to 0.2.0


@functools.cache
def named(name: str, heads: str = "") -> "Task":
    """The task of this name in TASKS, with these heads (config.datasets.NAME.heads)."""
    task: Task = pkgutil.resolve_name(TASKS[name])(heads)
    return task


def of(dataset: ConfigDict) -> "Task":
    """The task of a dataset of a config."""
    return named(dataset.task, dataset.heads)


def of_predictions(predictions: Any) -> "Task":
    """The task whose predictions are of this class."""
    name = next(name for name in TASKS if type(predictions) is pkgutil.resolve_name(TASKS[name]).predictions)
    return named(name, getattr(predictions, "heads", ""))


def of_problem(hub_problem: str | None) -> str:
    """The name of the task of a published model with this `problem_type` in its config.json; None: it states none."""
    return next((name for name in TASKS if named(name).hub_problem == hub_problem), DEFAULT)


def means(config: ConfigDict) -> dict[str, list[str]]:
    """Means over the evaluated datasets of a config -> the metrics that each is the mean of.

    "mean_METRIC" is over the datasets whose main metric that is, such as mean_top1. If datasets differ in that,
    "mean" is over the main metrics of all.
    """
    found: dict[str, list[str]] = {}
    for name, dataset in config.datasets.items():
        if dataset.eval_split:
            main = of(dataset).main_metric
            found.setdefault(f"mean_{main}", []).append(f"{name}/{main}")
    every = {"mean": [name for names in found.values() for name in names]} if len(found) > 1 else {}
    return found | every


def bests(config: ConfigDict) -> dict[str, list[str]]:
    """Name "best_METRIC" -> the metrics that it is the largest of, if all evaluated heads learn from the same clips."""
    evaluated = {name: dataset for name, dataset in config.datasets.items() if dataset.eval_split}
    if len({dataset.same_clips_as or name for name, dataset in evaluated.items()}) != 1:
        return {}
    main = of(next(iter(evaluated.values()))).main_metric
    return {f"best_{main}": [f"{name}/{main}" for name in evaluated]}


def metrics_of(config: ConfigDict) -> list[str]:
    """The metrics that an evaluation of a config gives, as config.best_metric names them."""
    evaluated = [(name, of(dataset)) for name, dataset in config.datasets.items() if dataset.eval_split]
    return [*means(config), *bests(config), *(f"{name}/{kind}" for name, task in evaluated for kind in task.titles)]
