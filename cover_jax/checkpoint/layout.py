"""The files of a run's checkpoints, and which checkpoints exist.

WORKDIR/checkpoints/STEP/state     the TrainState, sharded, written while training continues
WORKDIR/checkpoints/STEP/meta      JSON: metadata of the state (see `metadata.make_meta`), and its fingerprints
WORKDIR/checkpoints/STEP/metrics   JSON: accuracies and numbers of examples; empty if the step was not evaluated
"""

import importlib.metadata
import importlib.util
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from cover_jax.errors import ConfigError
from data_pipelines import files

Meta = dict[str, Any]  # JSON metadata of a checkpoint, see `metadata.make_meta`


def saved_steps(workdir: str) -> list[int]:
    """The steps with a complete checkpoint, in order."""
    return sorted(ocp.path.step.checkpoint_steps(checkpoints_folder(workdir)))


def checkpoints_folder(workdir: str) -> epath.Path:
    """The folder of a run's checkpoints: an absolute path (orbax requires it) or a URL."""
    if str(workdir).startswith("hf://"):
        raise ConfigError(f"{workdir}: is published weights, not the --workdir of a run")
    folder = epath.Path(workdir) / "checkpoints"
    if "://" not in str(workdir):
        return folder.resolve()
    if str(workdir).startswith("gs://") and importlib.util.find_spec("google.cloud.storage") is None:
        raise ConfigError(f"{workdir}: checkpoints in a bucket need more packages: pip install -e '.[gcs]'")
    return folder  # `resolve` would make it a local path


def read_accuracies(folder: epath.Path) -> dict[str, float]:
    """The accuracies of a checkpoint; {} if its step was not evaluated.

    Raises:
        DamagedFileError: they are no JSON object of numbers.
    """
    path = folder / "metrics" / "metrics"
    accuracies: dict[str, float] = files.read_json(path, {}, finite=False)
    if wrong := next((key for key, value in accuracies.items() if type(value) not in (int, float)), ""):
        raise files.DamagedFileError(f"{path} is damaged: {wrong!r} is no number")
    return accuracies
