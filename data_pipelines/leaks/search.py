"""Leaks of a mix: validation examples of one dataset that are also in the training set of another.

They are found by origin (a YouTube id and overlapping times), by the source file (its hash), and by content (perceptual
hashes of frames, then a comparison of the clips themselves). The result for each pair of splits is stored beside the
training dataset, so that a run that starts again does not repeat the search.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from tqdm import tqdm

from data_pipelines.leaks import alignment, facts, perceptual
from data_pipelines.leaks.facts import Facts
from data_pipelines.stream import records

VERSION = 1  # of the search; results of another version are not used
KINDS = ("origin", "file", "content")  # how a pair was found; the most reliable kind comes first
MODES = ("exclude", "report", "ignore")
CLIPS_IN_MEMORY = 256  # clips whose thumbnails are kept for the comparison; about 400 KB each


@dataclasses.dataclass(frozen=True, eq=False)
class Leaks:
    """The examples that one dataset's validation set and another's training set have in common.

    Attributes:
        validation, training: names of the two datasets.
        by: "origin", "file" or "content" -> pairs (validation index, training index), int64 [n, 2]; each pair is
            listed only under the first of the three that finds it.
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


def find_leaks(
    training: Mapping, validation: Mapping, frames_features: Mapping[str, str], measure: bool
) -> list[Leaks]:
    """Compares each validation split with the training splits of all other datasets.

    Args:
        training, validation: dataset name -> opened split.
        frames_features: dataset name -> the feature that holds its pictures.
        measure: whether to measure splits that are not measured yet, however long this takes.
    """
    measured = functools.cache(lambda split, feature: facts.load_facts(split, feature, measure))
    found = []
    for a, val in validation.items():
        for b, train in training.items():
            if a != b and val.modality == train.modality:
                sides = [_Side(split, measured(split, frames_features[n]), frames_features[n])
                         for n, split in ((a, val), (b, train))]  # fmt: skip
                found.append(_of_pair(a, b, *sides))
    return found


def report_lines(found: Sequence[dict]) -> list[str]:
    """Lines to print, made from the `Leaks.summary` of each pair: what leaks, and what was not compared."""
    lines = [line for summary in found if (line := _line(summary))]
    unchecked = dict.fromkeys(summary["unchecked"] for summary in found if summary["unchecked"])
    if found and not lines:
        lines.append("no validation example of one dataset found in the training set of another")
    return [f"leaks: {line}" for line in (*lines, *unchecked)]


def _line(summary: dict) -> str:
    """What one pair of datasets has in common; "" if nothing."""
    counts = {kind: summary[f"by_{kind}"] for kind in KINDS}
    kinds = ", ".join(f"{count} by {kind}" for kind, count in counts.items() if count)
    validation, training, parts = summary["validation"], summary["training"], []
    if kinds:
        parts.append(
            f"{summary['validation_examples']} validation examples of {validation} are also "
            f"{summary['training_examples']} training examples of {training} ({kinds})"
        )
    if summary["other_moments"]:
        other = summary["other_moments"]
        parts.append(f"{other} pairs of {validation} and {training} show other moments of one source")
    return "; ".join(parts)


def exclude(training: Mapping, found: Sequence[Leaks]) -> dict[str, records.Split]:
    """The training splits without the examples that are validation examples of another dataset.

    Raises:
        ValueError: all examples of a training split would be excluded.
    """
    none = np.zeros(0, np.int64)
    return {
        name: records.exclude(
            split, np.concatenate([none, *(leaks.pairs[:, 1] for leaks in found if leaks.training == name)])
        )
        for name, split in training.items()
    }


@dataclasses.dataclass(frozen=True, eq=False)
class _Side:
    split: records.Split
    facts: Facts | None
    frames_feature: str

    @property
    def known(self) -> Facts:
        """The facts of this side; it must have been measured."""
        assert self.facts is not None
        return self.facts


def _of_pair(validation: str, training: str, val: _Side, train: _Side) -> Leaks:
    nothing = {kind: np.zeros((0, 2), np.int64) for kind in KINDS}
    lacking = " and ".join(side.split.builder for side in (val, train) if side.facts is None)
    if lacking:
        remedy = f"`python -m data_pipelines.doctor {lacking.replace(' and ', ' ')}` measures it"
        unchecked = f"{validation} and {training} were not compared: {lacking} is not measured; {remedy}"
        return Leaks(validation, training, nothing, 0, unchecked)
    kept = _kept_path(val.split, train.split)
    by, other_moments = _load(kept) or _search(val, train)
    if not kept.exists():
        _save(kept, by, other_moments)
    return Leaks(validation, training, nothing | by, other_moments, _unchecked(val, train))


def _search(val: _Side, train: _Side) -> tuple[dict[str, np.ndarray], int]:
    same_original = _equal(val.known["source_id"], train.known["source_id"])
    overlapping = _overlap(val.known, train.known, same_original)
    by = {
        "origin": same_original[overlapping],
        "file": _equal(val.known["source_sha256"], train.known["source_sha256"]),
        "content": _by_content(val, train),
    }
    return _each_pair_once(by), int((~overlapping).sum())


def _equal(wanted: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Pairs of indices at which two columns have the same text, other than "": int64 [n, 2]."""
    order = np.argsort(stored, kind="stable")
    starts, ends = (np.searchsorted(stored[order], wanted, side) for side in ("left", "right"))
    ends = np.where(wanted == b"", starts, ends)
    asking, places = perceptual.expand(starts, ends)
    return np.stack([asking, order[places]], axis=1).astype(np.int64)


def _overlap(val: Facts, train: Facts, pairs: np.ndarray) -> np.ndarray:
    """Whether the times of two clips of one original overlap, bool [n]. Clips without times count as overlapping."""
    starts = np.stack([val["source_start_s"][pairs[:, 0]], train["source_start_s"][pairs[:, 1]]])
    ends = np.stack([val["source_end_s"][pairs[:, 0]], train["source_end_s"][pairs[:, 1]]])
    return (starts.max(0) < ends.min(0)) | (ends <= starts).any(0)


def _each_pair_once(by: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Drops pairs that are already listed under an earlier kind."""
    seen: set[tuple[int, ...]] = set()
    result = {}
    for kind, pairs in by.items():
        fresh = sorted(set(map(tuple, pairs.tolist())) - seen)
        seen.update(fresh)
        result[kind] = np.array(fresh, np.int64).reshape(-1, 2)
    return result


def _by_content(val: _Side, train: _Side) -> np.ndarray:
    """Pairs that show the same footage: int64 [n, 2]."""
    candidates = perceptual.similar_clips(val.known.hashes, train.known.hashes)

    @functools.lru_cache(CLIPS_IN_MEMORY)
    def clip(side: _Side, index: int) -> alignment.Clip | None:
        try:
            return alignment.Clip(*facts.read_thumbs(side.split, index, side.frames_feature))
        except facts.DAMAGE:
            return None  # damaged, so it is not used for training either

    def same(pair) -> bool:
        one, other = clip(val, int(pair[0])), clip(train, int(pair[1]))
        return one is not None and other is not None and alignment.compare(one, other).same

    title = f"comparing {val.split.builder} with {train.split.builder}"
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        verdicts = list(tqdm(pool.map(same, candidates), title, len(candidates), unit="pair", leave=False, delay=2.0))
    return candidates[np.array(verdicts, bool)]


def _unchecked(val: _Side, train: _Side) -> str:
    for split, known in ((side.split, side.known) for side in (val, train)):
        if min(known["height_px"].min(), known["width_px"].min()) < facts.MIN_SIDE_PX:
            return f"{split.builder}: pictures below {facts.MIN_SIDE_PX} px are compared only by origin and file"
    return ""


def _kept_path(val: records.Split, train: records.Split) -> epath.Path:
    key = hashlib.sha256(f"{VERSION} {facts.VERSION} {val.fingerprint} {train.fingerprint}".encode()).hexdigest()
    return epath.Path(train.paths[0]).parent / facts.FOLDER / f"leaks-{key[:32]}.json"


def _save(path: epath.Path, by: dict[str, np.ndarray], other_moments: int) -> None:
    kept = {"by": {kind: pairs.tolist() for kind, pairs in by.items()}, "other_moments": other_moments}
    facts.keep(path, json.dumps(kept).encode())


def _load(path: epath.Path) -> tuple[dict[str, np.ndarray], int] | None:
    if not path.exists():
        return None
    kept = json.loads(path.read_text())
    return {kind: np.array(pairs, np.int64).reshape(-1, 2) for kind, pairs in kept["by"].items()}, kept["other_moments"]
