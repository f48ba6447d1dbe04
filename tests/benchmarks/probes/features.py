"""The features of all clips, once for all rows and seeds, and the rows that need no gradient."""

import dataclasses
import pathlib

import numpy as np
from sklearn import linear_model, pipeline, preprocessing

from cover_jax.config import schema
from cover_jax.evaluation import features as library
from cover_jax.evaluation import knn
from tests.benchmarks.probes import clips, commands

# N clips, D width, T frames, P patches of a frame

INVERSE_PENALTIES = tuple(10.0**power for power in range(-4, 3))


@dataclasses.dataclass(frozen=True)
class Features:
    """All clips, in the order of the prepared splits.

    Attributes:
        cls_ND: what linear heads read.
        tokens_NTPD: what attentive heads read.
        label_N, group_N: class and group of each clip.
    """

    cls_ND: np.ndarray
    tokens_NTPD: np.ndarray
    label_N: np.ndarray
    group_N: np.ndarray

    def of(self, groups: frozenset[int]) -> np.ndarray:
        """Indices of the clips of these groups."""
        return np.flatnonzero(np.isin(self.group_N, list(groups)))


def load(workdir: pathlib.Path, data_dir: pathlib.Path, run: pathlib.Path) -> Features:
    """Writes the features that are missing and reads all. `run`: a run whose backbone has the published weights."""
    columns: dict[str, list[np.ndarray]] = {}
    for split in clips.SPLITS:
        for pool in ("cls", "tokens"):
            out = workdir / f"{pool}_{split}.npz"
            commands.once(
                workdir / f"{out.name}.ended", "cover_jax.features", f"--workdir={run}", f"--out={out}",
                f"--pool={pool}", f"--dataset={clips.BUILDER}", f"--split={split}", f"--data_dir={data_dir}",
            )  # fmt: skip
            with np.load(out) as found:
                columns.setdefault(pool, []).append(found["features"])
        with np.load(out) as found:
            columns.setdefault("label", []).append(found["label"])
            columns.setdefault("group", []).append(np.array([clips.group_of(path) for path in found["path"]]))
    cls_ND, tokens_NTPD, label_N, group_N = (
        np.concatenate(columns[name]) for name in ("cls", "tokens", "label", "group")
    )
    return Features(cls_ND, tokens_NTPD, label_N, group_N)


def nearest(found: Features, train: np.ndarray, neighbours: int) -> np.ndarray:
    """bool [N]: which clips the nearest training clips label right, by the library's evaluator."""
    bank = library.Labelled(found.cls_ND[train], found.label_N[train])
    temperature = schema.get_config().knn.temperature
    hits: np.ndarray = knn.predict(found.cls_ND, bank, neighbours, temperature) == found.label_N
    return hits


def logistic_regression(found: Features, train: np.ndarray) -> dict[str, np.ndarray]:
    """Penalty -> bool [N]: which clips scikit-learn's logistic regression on standardised features labels right."""
    hits = {}
    for inverse in INVERSE_PENALTIES:
        model = pipeline.make_pipeline(
            preprocessing.StandardScaler(), linear_model.LogisticRegression(C=inverse, max_iter=2000)
        )
        model.fit(found.cls_ND[train], found.label_N[train])
        hits[f"C={inverse:g}"] = model.predict(found.cls_ND) == found.label_N
    return hits
