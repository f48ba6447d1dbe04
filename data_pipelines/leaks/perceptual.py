"""Perceptual hashes of frames, and a near-linear search for pairs of clips whose frames have nearly equal hashes.

A frame's hash consists of the signs of the 63 lowest frequencies (a DCT) of its 32 x 32 grey thumbnail. Another
encoding, size or brightness changes a few of the 63 bits; another picture changes about half of them.

# T frames, S side of a thumbnail, Q query hashes, N stored hashes, B bits of a band.
"""

import dataclasses

import numpy as np
from scipy import fft

LOW = 8  # frequencies on each axis
FLAT_CONTRAST = 1.5  # grey levels; a frame with less contrast shows nothing recognisable
NUM_BANDS, BAND_BITS = 3, 21  # of the 63 bits
MAX_DISTANCE = 12  # bits of 63
CROWD = 1000  # hashes per bucket; fuller buckets are black screens and title cards, which do not identify a clip
BLOCK_HASHES = 1 << 22  # stored hashes per block: limits the memory to about 200 MB
LONG_CLIP, MIN_FRAMES = 8, 2  # two clips with LONG_CLIP hashes each need MIN_FRAMES equal frames: one is often chance
MAX_PARTNERS = 50  # candidates per clip that are compared in detail: those with the most frames in common


@dataclasses.dataclass(frozen=True, eq=False)
class Hashes:
    """Hashes of many clips: `values` uint64 [N], and the index of the clip of each hash, `clips` int64 [N]."""

    values: np.ndarray
    clips: np.ndarray


def frame_hashes(thumbs_TSS: np.ndarray) -> np.ndarray:
    """Hashes of the frames that are not flat, uint64 [at most T]."""
    thumbs_TSS = thumbs_TSS[thumbs_TSS.std(axis=(1, 2)) >= FLAT_CONTRAST].astype(np.float32)
    frequencies = fft.dctn(thumbs_TSS, axes=(1, 2))[:, :LOW, :LOW].reshape(len(thumbs_TSS), LOW * LOW)[:, 1:]
    return (frequencies > 0) @ (np.uint64(1) << np.arange(LOW * LOW - 1, dtype=np.uint64))


def similar_clips(wanted: Hashes, stored: Hashes) -> np.ndarray:
    """Pairs (clip of `wanted`, clip of `stored`) that have frames at most MAX_DISTANCE bits apart: int64 [pairs, 2].

    A pair of frames is found if one of three bands of 21 bits differs in at most one bit. This is certain for up to 5
    different bits in total. A clip has many frames, so it can be found by any of them.
    """
    counts = [
        _count_pairs(wanted, Hashes(stored.values[start : start + BLOCK_HASHES], stored.clips[start:][:BLOCK_HASHES]))
        for start in range(0, len(stored.values), BLOCK_HASHES)
    ]
    if not counts:
        return np.zeros((0, 2), np.int64)
    pairs, frames = _merge(np.concatenate([c[0] for c in counts]), np.concatenate([c[1] for c in counts]))
    pairs, frames = _without_chance(pairs, frames, wanted, stored)
    by_clip = np.lexsort((-frames, pairs[:, 0]))
    pairs = pairs[by_clip]
    _, starts, inverse = np.unique(pairs[:, 0], return_index=True, return_inverse=True)
    return pairs[np.arange(len(pairs)) - starts[inverse] < MAX_PARTNERS]


def _without_chance(pairs: np.ndarray, frames: np.ndarray, wanted: Hashes, stored: Hashes):
    """Drops pairs of long clips that have only one pair of frames in common."""
    sizes = [np.bincount(side.clips)[pairs[:, i]] for i, side in enumerate((wanted, stored))]
    kept = (frames >= MIN_FRAMES) | (np.minimum(*sizes) < LONG_CLIP)
    return pairs[kept], frames[kept]


def _count_pairs(wanted: Hashes, stored: Hashes) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of clips [pairs, 2], and the number of matching frame pairs of each [pairs]."""
    found = [np.zeros((0, 2), np.int64)]
    for band in range(NUM_BANDS):
        shift, mask = np.uint64(band * BAND_BITS), np.uint64((1 << BAND_BITS) - 1)
        order = np.argsort(stored.values >> shift & mask, kind="stable")
        keys = (stored.values >> shift & mask)[order]
        starts = np.searchsorted(keys, np.arange((1 << BAND_BITS) + 1, dtype=np.uint64))
        looked_up = (wanted.values >> shift & mask).astype(np.int64)
        for flip in (0, *(1 << bit for bit in range(BAND_BITS))):
            begin, end = starts[looked_up ^ flip], starts[(looked_up ^ flip) + 1]
            asking, places = expand(begin, np.where(end - begin <= CROWD, end, begin))
            hits = order[places]
            close = np.bitwise_count(wanted.values[asking] ^ stored.values[hits]) <= MAX_DISTANCE
            found.append(np.stack([wanted.clips[asking[close]], stored.clips[hits[close]]], axis=1))
    pairs = np.concatenate(found)
    return _merge(pairs, np.ones(len(pairs), np.int64))


def expand(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every position in the ranges starts..ends: the index of its range, and the position."""
    sizes = ends - starts
    asking = np.repeat(np.arange(len(starts)), sizes)
    within = np.arange(len(asking)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return asking, starts[asking] + within


def _merge(pairs: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merges equal pairs into one, with the sum of their counts."""
    unique, inverse = np.unique(pairs, axis=0, return_inverse=True)
    return unique, np.bincount(inverse.ravel(), counts, len(unique)).astype(np.int64)
