"""What the newest evaluation said of each example of a dataset, kept for reports: WORKDIR/predictions/DATASET.npz.

The file has the fields of `metrics.Predictions`, each [N], the `step` that was evaluated, and the `fingerprint` of the
evaluated split (`data_pipelines.stream.records.Split`), in which `index` counts. One example takes some 10 bytes.
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
        step: of the parameters.
        fingerprint: of the split.
    """

    predictions: metrics.Predictions
    step: int
    fingerprint: str


def save(workdir: epath.Path, name: str, evaluated: SavedPredictions) -> None:
    """Writes one dataset's file in the place of the one before."""
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
            raise ValueError("it is no archive of NumPy arrays")
        found = dict(np.load(archive))
        predictions = metrics.Predictions(**{key: found[key] for key in _TYPES})
        return SavedPredictions(predictions, int(found["step"]), str(found["fingerprint"]))
    except Exception as error:  # damaged bytes end in errors of many kinds, in zipfile, zlib and NumPy
        raise ValueError(f"{path} is damaged: {error}; --mode=evaluate of its run writes it anew") from error
