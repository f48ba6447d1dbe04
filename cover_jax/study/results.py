"""What a run of a study came to, in its folder's results.json: a run that has one is not repeated."""

import json

from etils import epath
from ml_collections import ConfigDict

from cover_jax import checkpoint, evaluated
from cover_jax import config as config_lib
from cover_jax.report import curves
from cover_jax.study.plan import Run
from data_pipelines.builders import files

FILE = "results.json"


def load(run: Run) -> dict | None:
    """The results of a run, or None if it has not ended.

    Raises:
        ConfigError: they are of another config.
    """
    path = run.folder / FILE
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    both = (checkpoint.config_of({"config": config}) for config in (found["config"], _as_json(run.config)))
    before, now = (dict(config_lib.flatten(config)) for config in both)
    if differing := [key for key in before.keys() | now.keys() if before.get(key) != now.get(key)]:
        key = min(differing)
        raise config_lib.ConfigError(
            f"{path}: was made with config.{key}={before.get(key)!r}, not {now.get(key)!r}; take another --workdir"
        )
    return found


def save(run: Run, seconds: float) -> None:
    """Writes the results of a run that has ended.

    Args:
        seconds: that its last process took.
    """
    folder = epath.Path(run.folder)
    said = {
        name: evaluated.load(folder, name).predictions
        for name, dataset in run.config.datasets.items()
        if dataset.eval_split
    }
    scalars = curves.read(folder / "tensorboard")
    found = {
        "setting": run.setting,
        "seed": run.seed,
        "draw": run.draw,
        "top1": {name: predictions.accuracies["top1"] for name, predictions in said.items()},
        "examples": {name: len(predictions.index) for name, predictions in said.items()},
        "curves": {name: scalars[f"validation/{name}/top1"] for name in said},
        "seconds": round(seconds, 1),
        "versions": checkpoint.versions(),
        "config": _as_json(run.config),
    }
    files.write_whole(folder / FILE, json.dumps(found, indent=1).encode())


def _as_json(config: ConfigDict) -> dict:
    return json.loads(config.to_json())
