"""Predictions of the newest evaluation per dataset, saved for reports: WORKDIR/predictions/DATASET.npz.

The file has the fields of `metrics.Predictions`, each [N], the evaluated `step`, and the `fingerprint` of the evaluated
split (`data_pipelines.stream.records.Split`). `index` is the position in that split. One example takes about 10 bytes.
"""

import dataclasses
import io
import zipfile

import numpy as np
from etils import epath

from cover_jax.evaluation import metrics
from data_pipelines import files

FOLDER = "predictions"
_TYPES = {
    "index": np.int32, "label": np.int32, "top1": np.int32, "hit5": np.bool_, "label_probability": np.float32,
    "top1_probability": np.float32,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class SavedPredictions:
    """One dataset's newest evaluation.

    Attributes:
        predictions: of all its examples.
        step: the training step of the parameters.
        fingerprint: fingerprint of the split.
    """

    predictions: metrics.Predictions
    step: int
    fingerprint: str


def save(workdir: epath.Path, name: str, evaluated: SavedPredictions) -> None:
    """Writes one dataset's file and replaces the previous one."""
    columns = {key: getattr(evaluated.predictions, key).astype(dtype) for key, dtype in _TYPES.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, step=evaluated.step, fingerprint=evaluated.fingerprint, **columns)
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
        predictions = metrics.Predictions(**{key: found[key] for key in _TYPES})
        return SavedPredictions(predictions, int(found["step"]), str(found["fingerprint"]))
    except Exception as error:  # damaged bytes cause many kinds of errors, in zipfile, zlib and NumPy
        raise ValueError(f"{path} is damaged: {error}; run --mode=evaluate on its workdir to write it again") from error
