"""This run's newest evaluation beside another run's, on the validation examples that both have: config.compare_with."""

import math

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from cover_jax import config as config_lib
from cover_jax import evaluated, progress


def check(config: ConfigDict) -> None:
    """Refuses a config.compare_with that has nothing to compare with.

    Raises:
        ConfigError: it has no evaluation of any dataset that this run evaluates, or a damaged one.
    """
    other, names = config.compare_with, [name for name, dataset in config.datasets.items() if dataset.eval_split]
    if not other:
        return
    try:
        found = [name for name in names if evaluated.load(_folder(other), name) is not None]
    except ValueError as error:
        raise config_lib.ConfigError(f"config.compare_with={other!r}: {error}") from error
    if not found:
        files = " or ".join(f"{evaluated.FOLDER}/{name}.npz" for name in names)
        raise config_lib.ConfigError(
            f"config.compare_with={other!r}: has no {files or 'dataset to compare, this run evaluates none'}; it must "
            "be the workdir of a run that was evaluated on a dataset of the same name (--mode=evaluate does so)"
        )


def table(workdir: epath.Path, other: str, names: list[str]) -> str:
    """A row for each of the datasets `names` that both runs were evaluated on; or what is missing, in words.

    `±` is the standard error of the difference as if the validation examples were drawn anew: it is taken example by
    example. What another seed would change is not in it.

    Raises:
        ValueError: a file is damaged.
    """
    rows = []
    for name in names:
        here, there = evaluated.load(workdir, name), evaluated.load(_folder(other), name)
        if here is not None and there is not None and here.fingerprint == there.fingerprint:
            rows.append(_row(name, here, there))
    if not rows:
        return f"nothing to compare: no dataset of {', '.join(names)} was evaluated on the same examples in {other}"
    return progress.table(f"compared with {other}", rows)


def _folder(other: str) -> epath.Path:
    return epath.Path(other).expanduser()


def _row(name: str, here: evaluated.Evaluated, there: evaluated.Evaluated) -> dict[str, str]:
    hits_N, others_N = ((one.predictions.top1 == one.predictions.label).astype(float) for one in (here, there))
    difference_N = hits_N - others_N
    error = np.std(difference_N, ddof=1) / math.sqrt(len(difference_N)) if len(difference_N) > 1 else math.nan
    return {
        "dataset": name, "examples": str(len(hits_N)),
        "its step": str(there.step), "its top-1": f"{others_N.mean():.1%}",
        "step": str(here.step), "top-1": f"{hits_N.mean():.1%}",
        "difference": f"{100 * difference_N.mean():+.1f} ± {100 * error:.1f}",
    }  # fmt: skip
