"""The results of leak searches, stored beside the training dataset, so that each pair of splits is searched once."""

import concurrent.futures
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from data_pipelines import files
from data_pipelines.leaks import facts
from data_pipelines.stream import records

VERSION = 2  # of the search and the files; results of another version are not used. 1: no checksum, no mirrored copies
KINDS = ("origin", "file", "content")  # how a pair was found; the most reliable kind comes first


@dataclasses.dataclass(frozen=True, eq=False)
class Leaks:
    """The examples that a validation set and a training set have in common.

    Attributes:
        validation, training: names of the two datasets; the same name for copies within one dataset.
        by: "origin", "file" or "content" -> pairs (validation index, training index), int64 [n, 2]; each pair is
            listed only under the first of the three that finds it. Every example that leaks is in a pair. Of many
            equal examples on both sides not every pair is listed: each example has one partner (`equal.py`).
        other_moments: number of pairs that are cut from one original at different times: related, but no leaks.
        unchecked: what could not be compared, and why; "" if everything was compared.
    """

    validation: str
    training: str
    by: dict[str, np.ndarray]
    other_moments: int
    unchecked: str

    @property
    def pairs(self) -> np.ndarray:
        """Pairs of all kinds: int64 [n, 2]."""
        return np.concatenate(list(self.by.values()))

    @property
    def is_own(self) -> bool:
        """Whether both splits are of one dataset."""
        return self.validation == self.training

    @property
    def is_empty_own(self) -> bool:
        """Whether it is about one dataset and says nothing: no copies, and all compared."""
        return self.is_own and not len(self.pairs) and not self.unchecked

    def summary(self) -> dict:
        """Counts, as JSON."""
        return {
            "validation": self.validation,
            "training": self.training,
            "validation_examples": len(np.unique(self.pairs[:, 0])),
            "training_examples": len(np.unique(self.pairs[:, 1])),
            **{f"by_{kind}": len(pairs) for kind, pairs in self.by.items()},
            "other_moments": self.other_moments,
            "unchecked": self.unchecked,
        }

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return dataclasses.asdict(self) | {"by": {kind: pairs.tolist() for kind, pairs in self.by.items()}}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Leaks":
        """What `to_json` was called on."""
        by = {kind: np.array(stored["by"][kind], np.int64).reshape(-1, 2) for kind in KINDS}
        return cls(**{**stored, "by": by})


@dataclasses.dataclass(frozen=True, eq=False)
class SplitPair:
    """Two splits that are compared, with the names of their datasets.

    Attributes:
        by_content: whether the clips themselves are compared, not only their source files.
    """

    validation: str
    training: str
    val: records.Split
    train: records.Split
    by_content: bool = True

    @property
    def is_own(self) -> bool:
        """Whether both are splits of one dataset."""
        return self.validation == self.training

    @property
    def path(self) -> epath.Path:
        """The file of the result."""
        versions = f"{VERSION} {facts.VERSION}" + ("" if self.by_content else " files")
        key = hashlib.sha256(f"{versions} {self.val.fingerprint} {self.train.fingerprint}".encode()).hexdigest()
        return epath.Path(self.train.paths[0]).parent / facts.FOLDER / f"leaks-{key[:32]}.json"


def load(pairs: Sequence[SplitPair]) -> list[Leaks | None]:
    """The stored result of each pair; None if it is not searched yet, or if the file is damaged. Reads no facts.

    A comparison by content is also the result of a pair that is to be compared only by files.
    """
    with concurrent.futures.ThreadPoolExecutor(facts.READERS) as pool:
        return list(pool.map(_load, pairs))


def _load(pair: SplitPair) -> Leaks | None:
    data = facts.read_kept(dataclasses.replace(pair, by_content=True).path)
    if data is None and not pair.by_content:
        data = facts.read_kept(pair.path)
    stored = None if data is None else files.parse_checked_json(data)
    return stored and Leaks.from_json(stored | {"validation": pair.validation, "training": pair.training})


def save(pair: SplitPair, found: Leaks) -> None:
    """Stores the result of a pair."""
    facts.keep(pair.path, files.checked_json(found.to_json()))
