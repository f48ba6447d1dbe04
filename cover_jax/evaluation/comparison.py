"""Compares this run's newest evaluation with another run's, on the same validation examples: config.compare_with."""

from etils import epath
from ml_collections import ConfigDict

from cover_jax.errors import ConfigError
from cover_jax.evaluation import saved_predictions
from cover_jax.tasks import metrics, registry
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
    rows: dict[str, list[dict[str, str]]] = {}  # task -> its rows, which have their own columns
    left_out = []
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
            task = registry.of_predictions(here.predictions)
            rows.setdefault(task.name, []).append(_row(name, here, there))
    tables = [text_tables.text_table(f"compared with {other}", of_task) for of_task in rows.values()]
    return "\n".join([*tables, *([_OF_ERROR] if tables else []), *left_out])


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
    task = registry.of_predictions(here.predictions)
    value, other = (metrics.percent(*task.measure(one.predictions)) for one in (here, there))
    difference, error = task.difference(here.predictions, there.predictions)
    title = task.titles[task.main_metric]
    return {
        "dataset": name, "examples": str(len(here.predictions.index)),
        "its step": str(there.step), f"its {title}": other, "step": str(here.step), title: value,
        "difference": f"{100 * difference:+.1f} ± {100 * error:.1f}",
    }  # fmt: skip
