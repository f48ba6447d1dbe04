"""Predictions of the newest evaluation per dataset, saved for reports: WORKDIR/predictions/DATASET.npz.

The file has the name of the `task` (files of version 0.2.0 and earlier: multiclass), the fields of its predictions,
each [N, ...], the evaluated `step`, and the `fingerprint` of the evaluated split
(`data_pipelines.stream.records.Split`). `index` is the position in that split. One example takes about 10 bytes; with
several labels per clip, about 4 per class.
"""

import dataclasses
import io
import zipfile
from typing import Any

import numpy as np
from etils import epath

from cover_jax.tasks import registry
from data_pipelines import files

FOLDER = "predictions"
_FIRST_TASK = "multiclass"  # the only task of version 0.2.0


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
    buffer = io.BytesIO()
    np.savez_compressed(buffer, task=task.name, step=evaluated.step, fingerprint=evaluated.fingerprint, **columns)
    (workdir / FOLDER).mkdir(parents=True, exist_ok=True)
    files.write_whole(workdir / FOLDER / f"{name}.npz", buffer.getvalue())


def load(workdir: epath.Path, name: str) -> SavedPredictions | None:
    """One dataset's newest evaluation, or None if there is none.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged.
    """
    path = workdir / FOLDER / f"{name}.npz"
    if not path.exists():
        return None
    archive = io.BytesIO(path.read_bytes())
    try:
        if not zipfile.is_zipfile(archive):
            raise ValueError("it is not an archive of NumPy arrays")
        found = dict(np.load(archive))
        task = registry.TASKS[str(found.get("task", _FIRST_TASK))]
        predictions = task.predictions(**{key: found[key] for key in task.stored})
        return SavedPredictions(predictions, int(found["step"]), str(found["fingerprint"]))
    except Exception as error:  # damaged bytes cause many kinds of errors, in zipfile, zlib and NumPy
        raise ValueError(f"{path} is damaged: {error}; run --mode=evaluate on its workdir to write it again") from error
