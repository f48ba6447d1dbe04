"""Which head is exported: one of the model's, or of a dataset with several heads (verb, noun) one of these."""

import dataclasses

import numpy as np
from flax import traverse_util

from cover_jax.checkpoint import metadata
from cover_jax.models.heads import is_per_class
from cover_jax.tasks import registry
from cover_jax.tasks.task import Part
from data_pipelines.command_line import UsageError


def choose(trained: metadata.TrainedModel, wanted: str) -> tuple[metadata.TrainedModel, str]:
    """The model and its head that `wanted` names.

    Args:
        trained: the model.
        wanted: a head; DATASET/HEAD for one of several heads of a dataset; "": the only head.

    Returns:
        The model, and the name of the head in it. Of DATASET/HEAD the model has that head only, as DATASET_HEAD: a
        classifier of its own, with exactly one class per clip.

    Raises:
        UsageError: there is no such head, or several and none is named.
    """
    if not wanted and len(trained.class_names) == 1:
        return trained, next(iter(trained.class_names))
    if wanted in trained.class_names:
        return trained, wanted
    parts = {f"{head}/{part.name}": (head, part) for head in trained.class_names for part in parts_of(trained, head)}
    if wanted not in parts:
        raise UsageError(f"--head={wanted}: must be one of {', '.join([*trained.class_names, *parts])}")
    return _alone(trained, *parts[wanted])


def parts_of(trained: metadata.TrainedModel, head: str) -> tuple[Part, ...]:
    """The heads of a dataset that has several; () of others."""
    task = registry.of(trained.dataset(head))
    return task.parts(len(trained.class_names[head])) if task.has_heads else ()


def _alone(trained: metadata.TrainedModel, head: str, part: Part) -> tuple[metadata.TrainedModel, str]:
    name, before = f"{head}_{part.name}", f"{head}/{part.name}_"
    leaves = traverse_util.flatten_dict(trained.params["heads"][head], sep="/")
    of_part = {
        path: np.asarray(array)[..., part.columns] if is_per_class(path) else array for path, array in leaves.items()
    }
    accuracies = {
        f"{name}/{key.removeprefix(before)}": value
        for key, value in trained.accuracies.items()
        if key.startswith(before)
    }
    if f"{head}/examples" in trained.accuracies:
        accuracies[f"{name}/examples"] = trained.accuracies[f"{head}/examples"]
    names = [one.removeprefix(f"{part.name}: ") for one in trained.class_names[head][part.columns]]
    alone = dataclasses.replace(
        trained,
        class_names={name: names},
        params=trained.params | {"heads": {name: traverse_util.unflatten_dict(of_part, sep="/")}},
        accuracies=accuracies,
        part_of={name: head},
    )
    return alone, name
