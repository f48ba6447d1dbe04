"""Perceptual hashes of frames, and a near-linear search for pairs of clips whose frames have nearly equal hashes.

A frame's hash consists of the signs of the 63 lowest frequencies (a DCT) of its 32 x 32 grey thumbnail. Another
encoding, size or brightness changes a few of the 63 bits; another picture changes about half of them.

# T frames, S side of a thumbnail, Q query hashes, N stored hashes.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from scipy import fft

LOW = 8  # frequencies on each axis
FLAT_CONTRAST = 1.5  # grey levels; a frame with less contrast shows nothing recognisable
NO_HASH = np.uint64(0)
_MIRROR = np.uint64(sum(1 << (LOW * y + x - 1) for y in range(LOW) for x in range(1, LOW, 2)))
NUM_BANDS, BAND_BITS = 3, 21  # of the 63 bits
MAX_DISTANCE = 12  # bits of 63
CROWD = 1000  # hashes per bucket; fuller buckets are black screens and title cards, which do not identify a clip
BLOCK_HASHES = 1 << 22  # stored hashes per block, and
PART_HITS = 1 << 22  # hits that are looked at together: both limit the memory
LONG_CLIP, MIN_FRAMES = 8, 2  # two clips with LONG_CLIP hashes each need MIN_FRAMES equal frames: one is often chance
MAX_RANKED = 200  # partners per clip whose hashes are all compared: those with the most frames in common
MAX_PARTNERS = 50  # candidates per clip, which are decoded and aligned: those with the largest share of equal frames
# Of the clip with fewer hashes, this share of the frames must be this similar to a frame of the other clip.
NEAR_DISTANCE, MIN_NEAR = 16, 0.4

Track = Callable[[list], Iterable]


@dataclasses.dataclass(frozen=True, eq=False)
class Hashes:
    """Hashes of many clips: `values` uint64 [N], and the index of the clip of each hash, `clips` int64 [N]."""

    values: np.ndarray
    clips: np.ndarray


def frame_hashes(thumbs_TSS: np.ndarray) -> np.ndarray:
    """Hashes of frames, uint64 [T]; NO_HASH of a flat frame."""
    frequencies = fft.dctn(thumbs_TSS.astype(np.float32), axes=(1, 2))[:, :LOW, :LOW]
    bits = frequencies.reshape(len(thumbs_TSS), LOW * LOW)[:, 1:] > 0
    hashes = bits @ (np.uint64(1) << np.arange(LOW * LOW - 1, dtype=np.uint64))
    return np.where(thumbs_TSS.std(axis=(1, 2)) >= FLAT_CONTRAST, hashes, NO_HASH)


def mirrored(hashes: Hashes) -> Hashes:
    """The hashes of the mirrored frames: every second horizontal frequency has the opposite sign."""
    return Hashes(hashes.values ^ _MIRROR, hashes.clips)


def similar_clips(wanted: Hashes, stored: Hashes, track: Track = iter) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (clip of `wanted`, clip of `stored`) that may show the same footage: int64 [pairs, 2], and their shares.

    They have frames at most MAX_DISTANCE bits apart. A pair of frames is found if one of three bands of 21 bits differs
    in at most one bit. This is certain for up to 5 different bits in total. A clip has many frames, so it can be found
    by any of them. Then all frames of both clips are compared: of the clip with fewer hashes, the share of the frames
    that are like a frame of the other clip must be MIN_NEAR or more.

    The memory is bounded by BLOCK_HASHES and PART_HITS, not by the number of hashes.

    Args:
        wanted, stored: hashes; those of one clip stand side by side.
        track: called with a list of parts of the work; yields them, and may report the progress.
    """
    blocks = _cut(stored, np.arange(1, len(stored.values) + 1), BLOCK_HASHES)
    found = [np.zeros((0, 2), np.int64)]
    shares = [np.zeros(0)]
    for block in blocks:
        bands = [_Band.of(block.values, band) for band in range(NUM_BANDS)]
        hits = sum(band.num_hits(wanted.values) for band in bands)
        parts = _cut(wanted, np.cumsum(hits), PART_HITS)
        for part in track(parts):
            pairs = _most_frames(*_count_pairs(part, block, bands), part, block)
            share = _near_shares(pairs, part, block)
            found.append(pairs[share >= MIN_NEAR])
            shares.append(share[share >= MIN_NEAR])
    pairs, share = np.concatenate(found), np.concatenate(shares)
    best = first_per_clip(pairs, share, MAX_PARTNERS)
    return pairs[best], share[best]


def _cut(hashes: Hashes, load: np.ndarray, most: int) -> list[Hashes]:
    """Cuts hashes between clips, so that each part adds about `most` to `load`, which is cumulative: int64 [N]."""
    if not len(hashes.values):
        return []
    first_of_clip = np.flatnonzero(np.diff(hashes.clips, prepend=hashes.clips[0] - 1))
    before = np.where(first_of_clip > 0, load[first_of_clip - 1], 0)
    starts = first_of_clip[np.flatnonzero(np.diff(before // most, prepend=-1))]
    ends = [*starts[1:], len(hashes.values)]
    return [Hashes(hashes.values[a:b], hashes.clips[a:b]) for a, b in zip(starts, ends, strict=True)]


@dataclasses.dataclass(frozen=True, eq=False)
class _Band:
    """Hashes sorted by one band of their bits.

    Attributes:
        shift: number of bits below the band.
        order: int32 [N], the sorted hashes.
        starts: int32 [2**BAND_BITS + 1], the first hash of each value of the band, in `order`.
    """

    shift: np.uint64
    order: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, band: int) -> "_Band":
        shift = np.uint64(band * BAND_BITS)
        keys = _band_of(values, shift)
        starts = np.zeros((1 << BAND_BITS) + 1, np.int32)
        np.cumsum(np.bincount(keys, minlength=1 << BAND_BITS), out=starts[1:])
        return cls(shift, np.argsort(keys, kind="stable").astype(np.int32), starts)

    def num_hits(self, values: np.ndarray) -> np.ndarray:
        """How many hashes `hits` finds for each of `values`: int64 [N]."""
        return sum(end - begin for begin, end in self._ranges(values))

    def hits(self, values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs whose band differs in at most one bit: positions in `values`, and positions in the sorted hashes."""
        for begin, end in self._ranges(values):
            asking, places = expand(begin, end)
            yield asking, self.order[places]

    def _ranges(self, values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        looked_up = _band_of(values, self.shift)
        for flip in (0, *(1 << bit for bit in range(BAND_BITS))):
            begin, end = self.starts[looked_up ^ flip], self.starts[(looked_up ^ flip) + 1]
            yield begin, np.where(end - begin <= CROWD, end, begin)


def _band_of(values: np.ndarray, shift: np.uint64) -> np.ndarray:
    return (values >> shift & np.uint64((1 << BAND_BITS) - 1)).astype(np.int64)


def _count_pairs(wanted: Hashes, stored: Hashes, bands: list[_Band]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of clips [pairs, 2], and the number of frame pairs of each that are MAX_DISTANCE apart or closer."""
    frame_pairs = [np.zeros(0, np.int64)]
    for band in bands:
        for asking, hits in band.hits(wanted.values):
            close = np.bitwise_count(wanted.values[asking] ^ stored.values[hits]) <= MAX_DISTANCE
            frame_pairs.append(asking[close] * len(stored.values) + hits[close])
    asking, hits = np.divmod(np.unique(np.concatenate(frame_pairs)), len(stored.values))  # several bands may find one
    num_clips = stored.clips.max() + 1
    pairs, frames = np.unique(wanted.clips[asking] * num_clips + stored.clips[hits], return_counts=True)
    return np.stack(np.divmod(pairs, num_clips), axis=1), frames


def _most_frames(pairs: np.ndarray, frames: np.ndarray, wanted: Hashes, stored: Hashes) -> np.ndarray:
    """Drops pairs of long clips that have one pair of frames in common, and all but MAX_RANKED pairs of each clip."""
    sizes = [np.bincount(side.clips)[pairs[:, i]] for i, side in enumerate((wanted, stored))]
    kept = (frames >= MIN_FRAMES) | (np.minimum(*sizes) < LONG_CLIP)
    pairs, frames = pairs[kept], frames[kept]
    return pairs[first_per_clip(pairs, frames, MAX_RANKED)]


def first_per_clip(pairs: np.ndarray, score: np.ndarray, most: int) -> np.ndarray:
    """Positions of the pairs with the highest scores, at most `most` of each clip pairs[:, 0]."""
    order = np.lexsort((pairs[:, 1], -score, pairs[:, 0]))
    _, starts, inverse = np.unique(pairs[order, 0], return_index=True, return_inverse=True)
    return order[np.arange(len(order)) - starts[inverse] < most]


def _near_shares(pairs: np.ndarray, wanted: Hashes, stored: Hashes) -> np.ndarray:
    """For each pair: the share of the frames, of the clip with fewer hashes, that are like a frame of the other."""
    of_wanted, of_stored = _spans(wanted), _spans(stored)
    shares = np.zeros(len(pairs))
    clips, starts, sizes = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    for clip, start, end in zip(clips, starts, starts + sizes, strict=True):
        own_Q = wanted.values[slice(*of_wanted[clip])]
        begins, ends = of_stored[pairs[start:end, 1]].T
        partner, places = expand(begins, ends)
        near_QN = np.bitwise_count(own_Q[:, None] ^ stored.values[places]) <= NEAR_DISTANCE
        of_partner = np.flatnonzero(np.diff(partner, prepend=-1))
        own = np.logical_or.reduceat(near_QN, of_partner, axis=1).mean(axis=0)
        other = np.add.reduceat(near_QN.any(axis=0).astype(int), of_partner) / (ends - begins)
        shares[start:end] = np.where(len(own_Q) <= ends - begins, own, other)
    return shares


def _spans(hashes: Hashes) -> np.ndarray:
    """The first hash of each clip, and the one after its last: int64 [clips, 2]."""
    clips, starts, sizes = np.unique(hashes.clips, return_index=True, return_counts=True)
    spans = np.zeros((hashes.clips.max() + 1, 2), np.int64)
    spans[clips] = np.stack([starts, starts + sizes], axis=1)
    return spans


def expand(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every position in the ranges starts..ends: the index of its range, and the position."""
    sizes = ends - starts
    asking = np.repeat(np.arange(len(starts)), sizes)
    within = np.arange(len(asking)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return asking, starts[asking] + within
