"""Examples that are equal, as groups: what is listed grows with the number of examples, not with that of their pairs.

In a group of n validation and m training examples, each example is linked with one partner of the other side: at most
n + m - 1 pairs instead of n * m.

# N examples of a side, R regions, C hashes of a split.
"""

import hashlib
from collections.abc import Callable

import numpy as np

from data_pipelines.leaks import perceptual

PART_PAIRS = 1 << 18  # looked at together: limits the memory
MAX_EQUAL = perceptual.MAX_PARTNERS  # clips with equal hashes; of more, one is looked up and compared for all


def link(wanted: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Each index of two columns with the first index at which the other has the same text, other than "".

    Returns:
        int64 [n, 2], sorted; every index that has a partner is in it.
    """
    forth, back = _with_first(wanted, stored), _with_first(stored, wanted)[:, ::-1]
    return np.unique(np.concatenate([forth, back]), axis=0)


def link_where(
    wanted: np.ndarray, stored: np.ndarray, agree: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, int]:
    """As `link`, of those pairs with the same text for which `agree` is true.

    Takes time for each pair with the same text, and memory for each example.

    Args:
        wanted, stored: two columns.
        agree: pairs int64 [n, 2] -> bool [n].

    Returns:
        The links, and the number of pairs with the same text for which `agree` is false.
    """
    order, starts, ends = _ranges(wanted, stored)
    before = np.cumsum(ends - starts) - (ends - starts)
    cuts = np.flatnonzero(np.diff(before // PART_PAIRS, prepend=-1))
    links, linked, others = [np.zeros((0, 2), np.int64)], np.zeros(len(stored), bool), 0
    for begin, end in zip(cuts, [*cuts[1:], len(wanted)], strict=True):
        asking, places = perceptual.expand(starts[begin:end], ends[begin:end])
        pairs = np.stack([asking + begin, order[places]], axis=1)
        agreed = agree(pairs)
        others += int((~agreed).sum())
        pairs = pairs[agreed]
        firsts = [np.unique(pairs[:, side], return_index=True)[1] for side in (0, 1)]
        fresh = firsts[1][~linked[pairs[firsts[1], 1]]]
        linked[pairs[fresh, 1]] = True
        links.append(pairs[np.union1d(firsts[0], fresh)])
    return np.unique(np.concatenate(links), axis=0), others


def _with_first(wanted: np.ndarray, stored: np.ndarray) -> np.ndarray:
    order, starts, ends = _ranges(wanted, stored)
    asking = np.flatnonzero(starts < ends)
    return np.stack([asking, order[starts[asking]]], axis=1).astype(np.int64)


def _ranges(wanted: np.ndarray, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The order that sorts `stored`, and which part of it has each wanted text; none for ""."""
    order = np.argsort(stored, kind="stable")
    starts, ends = (np.searchsorted(stored[order], wanted, side) for side in ("left", "right"))
    return order, starts, np.where(wanted == b"", starts, ends)


def representatives(hashes: np.ndarray, clips: np.ndarray, num_clips: int) -> np.ndarray:
    """For each clip the first clip whose hashes are all equal to its own, if more than MAX_EQUAL clips have them.

    Args:
        hashes: uint64 [C, R].
        clips: int64 [C], the clip of each; those of one clip stand side by side.
        num_clips: N.

    Returns:
        int64 [N]; itself for all other clips.
    """
    result = np.arange(num_clips)
    starts = np.flatnonzero(np.diff(clips, prepend=-1))
    if len(starts):
        owners = clips[starts]
        order = np.argsort(owners, kind="stable")  # the first of equal ones is the one of the smallest index
        _, firsts, group, sizes = np.unique(
            _fingerprints(hashes, starts)[order], return_index=True, return_inverse=True, return_counts=True
        )
        crowded = sizes[group] > MAX_EQUAL
        result[owners[order][crowded]] = owners[order][firsts[group[crowded]]]
    return result


def _fingerprints(hashes: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """64 bits for the hashes of each clip in their order: uint64, one per start."""
    digests = [hashlib.blake2b(part.tobytes(), digest_size=8).digest() for part in np.split(hashes, starts[1:])]
    return np.frombuffer(b"".join(digests), np.uint64)


def members(found: np.ndarray, representative: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs in which the other clips of a group stand for their representative, each clip once.

    Args:
        found: int64 [n, 2], pairs of representatives.
        representative: int64 [N], of the clips of one side.
        side: 0 or 1, the column of that side.

    Returns:
        int64 [m, 2], and which of `found` each was made from, int64 [m].
    """
    others = np.flatnonzero(representative != np.arange(len(representative)))
    others = others[np.argsort(representative[others], kind="stable")]
    _, first = np.unique(found[:, side], return_index=True)
    starts, ends = (np.searchsorted(representative[others], found[first, side], end) for end in ("left", "right"))
    asking, places = perceptual.expand(starts, ends)
    pairs = found[first[asking]].copy()
    pairs[:, side] = others[places]
    return pairs, first[asking]
