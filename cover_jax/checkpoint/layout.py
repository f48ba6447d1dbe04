"""Where the checkpoints of a run stand, and which there are.

WORKDIR/checkpoints/STEP/state     the TrainState, sharded, written while training goes on
WORKDIR/checkpoints/STEP/meta      JSON: what the state means (see `metadata.make_meta`), and its fingerprints
WORKDIR/checkpoints/STEP/metrics   JSON: accuracies, and of how many examples; empty where it was not evaluated
"""

import importlib.metadata
import importlib.util
import json
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from cover_jax.errors import ConfigError

Meta = dict[str, Any]  # of JSON: what a checkpoint says of itself, see `metadata.make_meta`


def saved_steps(workdir: str) -> list[int]:
    """The steps that were saved whole, in order."""
    return sorted(ocp.path.step.checkpoint_steps(checkpoints_folder(workdir)))


def checkpoints_folder(workdir: str) -> epath.Path:
    """Where a run's checkpoints stand: an absolute path, as orbax wants it, or a URL."""
    folder = epath.Path(workdir) / "checkpoints"
    if "://" not in str(workdir):
        return folder.resolve()
    if str(workdir).startswith("gs://") and importlib.util.find_spec("google.cloud.storage") is None:
        raise ConfigError(f"{workdir}: checkpoints in a bucket need more packages: pip install -e '.[gcs]'")
    return folder  # resolved, it would become a local one


def read_accuracies(folder: epath.Path) -> dict[str, float]:
    """What was measured at a checkpoint; {} where its step was not evaluated."""
    accuracies: dict[str, float] = json.loads((folder / "metrics" / "metrics").read_text())
    return accuracies
