"""Regions of a frame that two copies of the same footage have in common, whatever was put around or over them.

A copy may have black bars, a border cut off, or a logo in a corner. So black bars are trimmed, and three regions of the
rest are hashed: all of it, without a tenth on each side, and without a fifth on each side.

# T frames, M side of a grey frame, S side of a thumbnail.
"""

import functools

import numpy as np

from data_pipelines.leaks.alignment import SIDE_PX

FRAME_PX = 96  # M, whatever the shape of the clip
INSETS = (0.0, 0.1, 0.2)  # share of each side that is cut off, for each region
BLACK = 10  # grey levels, of 255: ARID's dark clips stay whole
RINGING = 0.15  # of the brightest row: what compression leaves in a black bar beside the picture
SPECKS = 0.02  # share of a row's pixels that may be brighter
MAX_BAR = 0.3  # of a side; a wider one is dark content

Box = tuple[int, int, int, int]  # top, bottom, left, right


def content_box(frames_TMM: np.ndarray) -> Box:
    """The part of the frames inside of black bars, in pixels."""
    brightest_MM = frames_TMM.max(axis=0)
    return (*_span(brightest_MM, axis=1), *_span(brightest_MM, axis=0))


def _span(brightest_MM: np.ndarray, axis: int) -> tuple[int, int]:
    levels_M = np.quantile(brightest_MM, 1 - SPECKS, axis=axis)
    shown = np.flatnonzero(levels_M > max(BLACK, RINGING * levels_M.max()))
    if not len(shown):
        return 0, FRAME_PX
    first, end, widest = int(shown[0]), int(shown[-1]) + 1, MAX_BAR * FRAME_PX
    return (first if first <= widest else 0), (end if FRAME_PX - end <= widest else FRAME_PX)


def thumbs(frames_TMM: np.ndarray, box: Box, inset: float) -> np.ndarray:
    """Thumbnails of one region of all frames: float32 [T, S, S]."""
    top, bottom, left, right = box
    rows, columns = (_average(start + inset * (end - start), end - inset * (end - start))
                     for start, end in ((top, bottom), (left, right)))  # fmt: skip
    return rows @ frames_TMM.astype(np.float32) @ columns.T


@functools.lru_cache(256)  # most clips have no bars, so their boxes are equal
def _average(start: float, end: float) -> np.ndarray:
    """The matrix [S, M] that averages the pixels from `start` to `end` to S pixels."""
    edges = np.linspace(start, end, SIDE_PX + 1)[:, None]
    pixels = np.arange(FRAME_PX)
    overlap = np.minimum(pixels + 1, edges[1:]) - np.maximum(pixels, edges[:-1])
    return (np.maximum(overlap, 0) / (edges[1:] - edges[:-1])).astype(np.float32)
