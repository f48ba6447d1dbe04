"""Predictions of the newest evaluation per dataset, saved for reports: WORKDIR/predictions/DATASET.npz.

The file has the name of the `task` and its `heads` (up to version 0.2.0: multiclass), the fields of its predictions,
each [N, ...], the evaluated `step`, and the `fingerprint` of the evaluated split
(`data_pipelines.stream.records.Split`). `index` is the position in that split. One example takes about 10 bytes; with
several labels per clip, about 4 per class.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from cover_jax import errors
from cover_jax.tasks import registry
from cover_jax.tasks.task import Task
from data_pipelines import escaping, files

FOLDER = "predictions"


@dataclasses.dataclass(frozen=True, eq=False)
class SavedPredictions:
    """One dataset's newest evaluation.

    Attributes:
        predictions: of all its examples, of its task's class (`tasks.task.Task.predictions`).
        step: the training step of the parameters.
        fingerprint: fingerprint of the split.
    """

    predictions: Any
    step: int
    fingerprint: str


def save(workdir: epath.Path, name: str, evaluated: SavedPredictions) -> None:
    """Writes one dataset's file and replaces the previous one."""
    task = registry.of_predictions(evaluated.predictions)
    columns = {key: getattr(evaluated.predictions, key).astype(dtype) for key, dtype in task.stored.items()}
    about = {"task": task.name, "heads": getattr(evaluated.predictions, "heads", "")}
    about |= {"step": evaluated.step, "fingerprint": evaluated.fingerprint}
    (workdir / FOLDER).mkdir(parents=True, exist_ok=True)
    files.write_whole(workdir / FOLDER / f"{name}.npz", files.sealed_arrays(about | columns, compressed=True))


def load(workdir: epath.Path, name: str) -> SavedPredictions | None:
    """One dataset's newest evaluation, or None if there is none.

    Raises:
        OSError: the file cannot be read.
        DamagedStateError: it is damaged.
    """
    path = workdir / FOLDER / f"{name}.npz"
    if not path.exists():
        return None
    try:
        found = files.parse_arrays(files.read_small(path, files.MAX_ARRAYS_BYTES))
        name_of_task = str(found.get("task", registry.DEFAULT))
        if name_of_task not in registry.TASKS:
            raise ValueError(f"its task is {escaping.one_line(name_of_task, 100)}")
        task = registry.named(name_of_task, str(found.get("heads", "")))
        if wrong := _mismatch(found, task):
            raise ValueError(wrong)
        predictions = task.make({key: found[key] for key in task.stored})
        return SavedPredictions(predictions, int(found["step"]), str(found["fingerprint"]))
    except ValueError as error:
        reason = str(error).removeprefix(f"{path} is damaged: ")
        raise errors.DamagedStateError(
            f"{path} is damaged: {reason}; run --mode=evaluate on its workdir to write it again"
        ) from error


def _mismatch(found: Mapping[str, np.ndarray], task: Task) -> str:
    """What is wrong with the arrays of a file; "" if nothing is."""
    if missing := ({*task.stored, "step", "fingerprint"} - found.keys()):
        return f"it has no {min(missing)!r}"
    if found["step"].shape or found["step"].dtype.kind != "i" or found["fingerprint"].dtype.kind != "U":
        return "'step' or 'fingerprint' is of another type"
    length = (found["index"].size,)
    wrong = (key for key, kind in task.stored.items() if found[key].dtype != kind or found[key].shape[:1] != length)
    return next((f"{key!r} is of another type or length" for key in wrong), "")
