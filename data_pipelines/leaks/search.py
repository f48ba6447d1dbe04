"""Leaks of a mix: validation examples of one dataset that are also in the training set of another, or of the same.

They are found by origin (a YouTube id and overlapping times), by the source file (its hash), and by content (perceptual
hashes of frames, then a comparison of the clips themselves). The result for each pair of splits is stored beside the
training dataset, so that a run that starts again does not repeat the search.
"""

import concurrent.futures
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from data_pipelines import catalog
from data_pipelines.leaks import alignment, equal, facts, kept, perceptual, regions
from data_pipelines.leaks.facts import Facts
from data_pipelines.leaks.kept import KINDS, Leaks, SplitPair
from data_pipelines.leaks.progress import Tell, tell_nobody, track
from data_pipelines.stream import records

FILE_HASH, ORIGIN = "source_sha256", "source_id"
MODES = ("exclude", "report", "ignore")
MAX_COMPARED = 100_000  # pairs of clips per pair of splits that are decoded and aligned, at about 0.1 s of CPU each
CLIPS_IN_MEMORY = 256  # clips whose thumbnails are kept for the comparison; about 700 KB each


def pairs_to_compare(training: Mapping, validation: Mapping, own_content: bool = False) -> list[SplitPair]:
    """Each validation split with the training splits of all datasets of the same modality, its own among them.

    Datasets that this project generates are not compared with themselves.

    Args:
        training, validation: dataset name -> opened split.
        own_content: whether the splits of one dataset are compared by content, too. A run compares only their files.
    """
    return [
        SplitPair(a, b, val, train, by_content=a != b or own_content)
        for a, val in validation.items()
        for b, train in training.items()
        if val.modality == train.modality and (a != b or _may_have_copies(train, own_content))
    ]


def _may_have_copies(split: records.Split, own_content: bool) -> bool:
    return (own_content or FILE_HASH in split.features) and not catalog.is_self_contained(split.builder)


def find_leaks(
    training: Mapping,
    validation: Mapping,
    frames_features: Mapping[str, str],
    load_facts: Callable[[records.Split, str], Facts | None],
    tell: Tell = tell_nobody,
    own_content: bool = False,
) -> list[Leaks]:
    """Compares validation splits with training splits, see `pairs_to_compare`.

    Pairs of splits whose result is stored are not searched again, and their facts are not read. `kept.load` alone says
    which pairs these are.

    Args:
        training, validation: dataset name -> opened split.
        frames_features: dataset name -> the feature that holds its pictures.
        load_facts: (split, frames feature) -> its facts, as `facts.load_facts`. Called once per split.
        tell: called with a line of progress now and then.
        own_content: see `pairs_to_compare`.
    """
    load_once = functools.cache(load_facts)

    def side(name: str, split: records.Split) -> _Side:
        return _Side(split, load_once(split, frames_features[name]), frames_features[name])

    pairs = pairs_to_compare(training, validation, own_content)
    return [
        stored or _of_pair(pair, side(pair.validation, pair.val), side(pair.training, pair.train), tell)
        for pair, stored in zip(pairs, kept.load(pairs), strict=True)
    ]


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
    of_training = "of its own training examples" if validation == training else f"training examples of {training}"
    if kinds:
        parts.append(
            f"{summary['validation_examples']} validation examples of {validation} are also "
            f"{summary['training_examples']} {of_training} ({kinds})"
        )
    if summary["other_moments"]:
        other = summary["other_moments"]
        parts.append(f"{other} pairs of {validation} and {training} show other moments of one source")
    return "; ".join(parts)


def exclude(training: Mapping, found: Sequence[Leaks]) -> dict[str, records.Split]:
    """The training splits without the examples that are validation examples of any dataset, its own too.

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


def _of_pair(pair: SplitPair, val: _Side, train: _Side, tell: Tell) -> Leaks:
    """Searches a pair, and stores the result if both sides are measured."""
    if lacking := " and ".join(side.split.builder for side in (val, train) if side.facts is None):
        remedy = f"`python -m data_pipelines.doctor {lacking.replace(' and ', ' ')}` measures it"
        unchecked = f"{pair.validation} and {pair.training} were not compared: {lacking} is not measured; {remedy}"
        nothing = {kind: np.zeros((0, 2), np.int64) for kind in KINDS}
        return Leaks(pair.validation, pair.training, nothing, 0, unchecked)
    tell(f"searching the validation examples of {pair.validation} in the training set of {pair.training}")
    found = _search(pair, val, train, tell)
    kept.save(pair, found)
    return found


def _search(pair: SplitPair, val: _Side, train: _Side, tell: Tell) -> Leaks:
    of_one_moment = functools.partial(_of_one_moment, val.known, train.known)
    by = dict.fromkeys(KINDS, np.zeros((0, 2), np.int64))
    other_moments = 0
    if not pair.is_own:  # which clips of one original are in which split of a dataset is the publisher's decision
        by["origin"], other_moments = equal.link_where(val.known[ORIGIN], train.known[ORIGIN], of_one_moment)
    files = equal.link(val.known[FILE_HASH], train.known[FILE_HASH])
    by["file"] = files if pair.is_own else files[~of_one_moment(files)]
    unchecked = []
    if pair.by_content:

        def known(pairs: np.ndarray) -> np.ndarray:
            of_one_file = _equal(val.known, train.known, pairs, FILE_HASH)
            return of_one_file if pair.is_own else of_one_file | of_one_moment(pairs)

        by["content"], skipped = _by_content(val, train, known, tell)
        unchecked = [text for text in (_too_small(val, train), skipped) if text]
    return Leaks(pair.validation, pair.training, by, other_moments, "; ".join(unchecked))


def _equal(val: Facts, train: Facts, pairs: np.ndarray, name: str) -> np.ndarray:
    """Whether the two clips of each pair have the same text in a column, other than "": bool [n]."""
    wanted, stored = val[name][pairs[:, 0]], train[name][pairs[:, 1]]
    return (wanted == stored) & (wanted != b"")


def _of_one_moment(val: Facts, train: Facts, pairs: np.ndarray) -> np.ndarray:
    """Whether the two clips of each pair are of one original and their times overlap, bool [n].

    Clips without times count as overlapping.
    """
    starts = np.stack([val["source_start_s"][pairs[:, 0]], train["source_start_s"][pairs[:, 1]]])
    ends = np.stack([val["source_end_s"][pairs[:, 0]], train["source_end_s"][pairs[:, 1]]])
    overlap = (starts.max(0) < ends.min(0)) | (ends <= starts).any(0)
    return overlap & _equal(val, train, pairs, ORIGIN)


@dataclasses.dataclass(frozen=True)
class _View:
    """A region of `regions.INSETS`, mirrored or not."""

    region: int
    mirrored: bool = False


# Regions of the validation clip and the training clip that show the same if one of them is a copy of the other:
# the same frame; a border was cut off from one of them; a logo is at the border of one of them.
_REGIONS = ((0, 0), (1, 0), (0, 1), (2, 2))
_VIEWS = [(_View(a, flip), _View(b)) for a, b in _REGIONS for flip in (False, True)]


@dataclasses.dataclass(frozen=True, eq=False)
class _Group:
    """The clips of a side, of which those with equal hashes are represented by one, if they are many.

    Attributes:
        representative: int64 [N], see `equal.representatives`.
    """

    facts: Facts
    representative: np.ndarray

    @classmethod
    def of(cls, known: Facts) -> "_Group":
        return cls(known, equal.representatives(known.hashes, known.clips, len(known)))

    def hashes_of(self, region: int) -> perceptual.Hashes:
        """The hashes of one region of those that are looked up."""
        hashes = self.facts.hashes_of(region)
        looked_up = self.representative[hashes.clips] == hashes.clips
        return perceptual.Hashes(hashes.values[looked_up], hashes.clips[looked_up])


Known = Callable[[np.ndarray], np.ndarray]  # pairs [n, 2] -> whether each is a leak by origin or file, bool [n]


@dataclasses.dataclass(frozen=True)
class _Candidates:
    """Pairs that may show the same footage.

    Attributes:
        pairs: int64 [n, 2], those that are to be compared.
        views: int64 [n], the position in `_VIEWS` at which each agrees most.
        skipped: how many more there are, above MAX_COMPARED.
        known: int64 [k, 2], those that are known by origin or file.
        views_of_known: int64 [k].
    """

    pairs: np.ndarray
    views: np.ndarray
    skipped: int
    known: np.ndarray
    views_of_known: np.ndarray


def _candidates(val: _Group, train: _Group, known: Known, title: str, tell: Tell) -> _Candidates:
    found, shares, views = [np.zeros((0, 2), np.int64)], [np.zeros(0)], [np.zeros(0, np.int64)]
    for i, (of_val, of_train) in enumerate(_VIEWS):
        wanted = val.hashes_of(of_val.region)
        pairs, share = perceptual.similar_clips(
            perceptual.mirrored(wanted) if of_val.mirrored else wanted,
            train.hashes_of(of_train.region),
            lambda parts: track(parts, f"{title}: looking up hashes", len(parts), "part", tell),
        )
        found, shares, views = [*found, pairs], [*shares, share], [*views, np.full(len(pairs), i)]
    pairs, share, view = np.concatenate(found), np.concatenate(shares), np.concatenate(views)
    order = np.lexsort((view, -share))
    best = order[np.unique(pairs[order], axis=0, return_index=True)[1]]
    is_known = known(pairs[best])
    of_known, best = best[is_known], best[~is_known]
    best = best[perceptual.first_per_clip(pairs[best], share[best], perceptual.MAX_PARTNERS)]
    kept_best = np.sort(np.argsort(-share[best], kind="stable")[:MAX_COMPARED])  # in the order of validation clips
    skipped = len(best) - len(kept_best)
    return _Candidates(pairs[best][kept_best], view[best][kept_best], skipped, pairs[of_known], view[of_known])


def _by_content(val: _Side, train: _Side, known: Known, tell: Tell) -> tuple[np.ndarray, str]:
    """Pairs that show the same footage, other than those that are known: int64 [n, 2]; and what was not compared.

    Of many clips with equal hashes, one is looked up and compared. If it is a leak, the others are compared with its
    partner.
    """
    title = f"comparing {val.split.builder} with {train.split.builder}"
    groups = _Group.of(val.known), _Group.of(train.known)
    candidates = _candidates(*groups, known, title, tell)
    compare = _Comparer(val, train, title, tell)
    same = compare(candidates.pairs, candidates.views)
    found = candidates.pairs[same]
    leaking = np.concatenate([candidates.known, found])
    views = np.concatenate([candidates.views_of_known, candidates.views[same]])
    more, of = (np.concatenate(parts) for parts in zip(*(
        equal.members(leaking, group.representative, side) for side, group in enumerate(groups)
    ), strict=True))  # fmt: skip
    fresh = ~known(more)
    more, of = more[fresh], of[fresh]
    room = max(0, MAX_COMPARED - len(candidates.pairs))
    skipped = candidates.skipped + max(0, len(more) - room)
    same = compare(more[:room], views[of[:room]])
    unchecked = f"{title}: {skipped} pairs of clips with the least in common were not compared" if skipped else ""
    return np.unique(np.concatenate([found, more[:room][same]]), axis=0), unchecked


class _Comparer:
    """Tells whether clips of two sides show the same footage: decodes and aligns them. Keeps the last thumbnails."""

    def __init__(self, val: _Side, train: _Side, title: str, tell: Tell):
        self._val, self._train, self._title, self._tell = val, train, title, tell
        self._clip = functools.lru_cache(CLIPS_IN_MEMORY)(_read_clip)

    def __call__(self, pairs: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Of pairs int64 [n, 2], each seen in its view (a position in `_VIEWS`): bool [n]."""
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            verdicts = pool.map(self._is_same, pairs, views)
            return np.array(list(track(verdicts, self._title, len(pairs), "pair", self._tell)), bool)

    def _is_same(self, pair: np.ndarray, view: int) -> bool:
        of_val, of_train = _VIEWS[view]
        one = self._clip(self._val, int(pair[0]), of_val)
        other = self._clip(self._train, int(pair[1]), of_train)
        return one is not None and other is not None and alignment.same_at_any_speed(one, other)


def _read_clip(side: _Side, index: int, view: _View) -> alignment.Clip | None:
    """One view of a clip; None if it is damaged, so that it is not used for training either."""
    try:
        frames, fps = facts.read_frames(side.split, index, side.frames_feature)
    except facts.DAMAGE:
        return None
    thumbs = regions.thumbs(frames, regions.content_box(frames), regions.INSETS[view.region])
    return alignment.Clip(thumbs[:, :, ::-1] if view.mirrored else thumbs, fps)


def _too_small(val: _Side, train: _Side) -> str:
    for split, known in ((side.split, side.known) for side in (val, train)):
        sides_px = np.minimum(known["height_px"], known["width_px"])[known["reason"] == b""]  # of readable records
        if sides_px.min(initial=facts.MIN_SIDE_PX) < facts.MIN_SIDE_PX:
            return f"{split.builder}: pictures below {facts.MIN_SIDE_PX} px are compared only by origin and file"
    return ""
