"""Compares this run's newest evaluation with another run's, on the same validation examples: config.compare_with."""

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cover_jax.errors import ConfigError
from cover_jax.evaluation import metrics, saved_predictions
from data_pipelines.output import text_tables

_OF_ERROR = f"{metrics.ERROR_NOTE}; another seed may change the result more"


def check(config: ConfigDict) -> None:
    """Refuses a config.compare_with without a matching evaluation.

    Raises:
        ConfigError: it has no evaluation of any dataset that this run evaluates, or an evaluation cannot be read.
    """
    other, names = config.compare_with, [name for name, dataset in config.datasets.items() if dataset.eval_split]
    if not other:
        return
    try:
        found = [name for name in names if _of(other, name) is not None]
    except ValueError as error:
        raise ConfigError(f"config.compare_with={other!r}: {error}") from error
    if not found:
        files = " or ".join(f"{saved_predictions.FOLDER}/{name}.npz" for name in names)
        raise ConfigError(
            f"config.compare_with={other!r}: has no {files or 'dataset to compare, this run evaluates none'}; it must "
            "be the workdir of a run that was evaluated on a dataset of the same name (--mode=evaluate does so)"
        )


def table(workdir: epath.Path, other: str, names: list[str]) -> str:
    """One row per dataset of `names` that both runs were evaluated on, and why other datasets have no row.

    The standard error is that of the difference per example.
    """
    rows, left_out = [], []
    for name in names:
        try:
            here, there = _of(str(workdir), name), _of(other, name)
        except ValueError as error:
            left_out.append(f"WARNING: {name} is not compared: {error}")
            continue
        if here is None or there is None:
            where = workdir if here is None else other
            left_out.append(f"{name} is not compared: {where} has no {saved_predictions.FOLDER}/{name}.npz")
        elif here.fingerprint != there.fingerprint:
            left_out.append(f"{name} is not compared: {other} was evaluated on other examples")
        else:
            rows.append(_row(name, here, there))
    compared = [text_tables.text_table(f"compared with {other}", rows), _OF_ERROR] if rows else []
    return "\n".join(compared + left_out)


def _of(workdir: str, name: str) -> saved_predictions.SavedPredictions | None:
    """A run's newest evaluation of a dataset, or None if there is none.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return saved_predictions.load(epath.Path(workdir).expanduser(), name)
    except ValueError:
        raise
    except Exception as error:  # disk, bucket or no path: epath and TensorFlow raise own types
        raise ValueError(
            f"{saved_predictions.FOLDER}/{name}.npz cannot be read: {type(error).__name__}: {error}"
        ) from error


def _row(
    name: str, here: saved_predictions.SavedPredictions, there: saved_predictions.SavedPredictions
) -> dict[str, str]:
    hits_N, others_N = (one.predictions.hits.astype(float) for one in (here, there))
    difference_N = hits_N - others_N
    error = metrics.standard_error(difference_N)
    return {
        "dataset": name, "examples": str(len(hits_N)),
        "its step": str(there.step), "its top-1": _percent(others_N), "step": str(here.step), "top-1": _percent(hits_N),
        "difference": f"{100 * difference_N.mean():+.1f} ± {100 * error:.1f}",
    }  # fmt: skip


def _percent(hits_N: np.ndarray) -> str:
    accuracy = float(hits_N.mean())
    return metrics.percent(accuracy, metrics.binomial_error(accuracy, len(hits_N)))
