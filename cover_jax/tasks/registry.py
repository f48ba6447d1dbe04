"""The tasks by name: config.datasets.NAME.task. A task of your own is a module here, and an entry in TASKS."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cover_jax.tasks.multiclass import Multiclass
from cover_jax.tasks.task import Task

TASKS: Mapping[str, Task] = {task.name: task for task in (Multiclass(),)}


def of_predictions(predictions: Any) -> Task:
    """The task that makes predictions of this class."""
    return next(task for task in TASKS.values() if isinstance(predictions, task.predictions))


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


def metrics_of(config: ConfigDict) -> list[str]:
    """The metrics that an evaluation of a config gives, as config.best_metric names them."""
    evaluated = [(name, of(dataset)) for name, dataset in config.datasets.items() if dataset.eval_split]
    return [*means(config), *(f"{name}/{kind}" for name, task in evaluated for kind in task.titles)]


def of(dataset: ConfigDict) -> Task:
    """The task of a dataset of a config."""
    return TASKS[dataset.task]
