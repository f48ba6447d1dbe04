"""The results of a study's run, in results.json of its folder. A run with this file is not repeated."""

import json
import pathlib
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from cover_jax import errors
from cover_jax.checkpoint import layout, metadata, restore
from cover_jax.config import checks
from cover_jax.errors import ConfigError
from cover_jax.evaluation import saved_predictions
from cover_jax.report import curves
from cover_jax.study.design import Run
from cover_jax.tasks import registry
from cover_jax.versions import versions
from data_pipelines import files

FILE = "results.json"
_OF_NAME = {
    "top1": {str: float}, "hits": {str: str}, "validated_on": {str: str}, "curves": {str: [list]},
}  # fmt: skip
_FORM = {"setting": str, "seed": int, "draw": int, **_OF_NAME, "seconds": float, "versions": {}, "config": {}}


def load(run: Run) -> dict | None:
    """The results of a run, or None if it has not ended.

    Raises:
        ConfigError: the results belong to another config.
        DamagedStateError: the file is damaged.
    """
    path = run.folder / FILE
    if not path.exists():
        return None
    try:
        found: dict = files.read_json(epath.Path(path), _FORM)
    except files.DamagedFileError as error:
        raise errors.DamagedStateError(f"{error}; delete it, and the same command makes it again") from error
    _check_config(run, found["config"], path)
    return found


def check_unfinished(run: Run) -> None:
    """Refuses to continue from a checkpoint in this run's folder that was saved with another config.

    Raises:
        ConfigError: there is such a checkpoint.
    """
    if layout.saved_steps(str(run.folder)):
        step, meta, _ = restore.newest(str(run.folder))
        _check_config(run, meta["config"], run.folder / "checkpoints" / str(step))


def _check_config(run: Run, config: dict, where: pathlib.Path) -> None:
    before, now = _comparable(run, config), _comparable(run, _as_json(run.config))
    if differing := [key for key in before.keys() | now.keys() if before.get(key) != now.get(key)]:
        key = min(differing)
        raise ConfigError(
            f"{where}: was made with config.{key}={before.get(key)!r}, not {now.get(key)!r}; use another --workdir"
        )


def _comparable(run: Run, config: dict) -> dict:
    found: dict[str, Any] = dict(checks.flatten(metadata.config_of({"config": config})))
    if run.start:  # a folder of the study, which may have moved since then
        found["model.init_from"] = str(pathlib.Path(*pathlib.Path(found["model.init_from"]).parts[-3:]))
    return found


def save(run: Run, seconds: float) -> None:
    """Writes the results of a finished run.

    Args:
        seconds: run time of its last process.

    Raises:
        ValueError: its last evaluation is incomplete.
    """
    folder = epath.Path(run.folder)
    said = {}
    scalars, last = curves.read(folder / "tensorboard"), layout.saved_steps(str(folder))[-1]
    # The share of hits: top-1, with several labels per clip Hit@1, with several heads where all are right.
    kinds = {name: registry.of(data).train_metric for name, data in run.config.datasets.items() if data.eval_split}
    for name, kind in kinds.items():
        one = saved_predictions.load(folder, name)
        if one is None or one.step != last or f"validation/{name}/{kind}" not in scalars:
            raise ValueError(f"{folder}: the evaluation of {name} at step {last} is incomplete")
        said[name] = one
    found = {
        "setting": run.setting,
        "seed": run.seed,
        "draw": run.draw,
        "top1": {name: float(one.predictions.hits.mean()) for name, one in said.items()},
        "hits": {name: _hits(one.predictions) for name, one in said.items()},
        "validated_on": {name: one.fingerprint for name, one in said.items()},
        "curves": {name: scalars[f"validation/{name}/{kinds[name]}"] for name in said},
        "seconds": round(seconds, 1),
        "versions": versions(),
        "config": _as_json(run.config),
    }
    files.write_whole(folder / FILE, files.sealed_json(found))


def _hits(predictions: Any) -> str:
    """Per example of the split: 1 if its prediction is correct, otherwise 0."""
    return "".join(str(int(hit)) for hit in predictions.hits)


def _as_json(config: ConfigDict) -> dict:
    return json.loads(config.to_json())
