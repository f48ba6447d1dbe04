"""Whether two clips show the same footage: the clips are aligned in time and in space, and then compared.

A re-encoded copy can differ in size, quality, brightness, frame rate, a cropped border and its start time. Another clip
of the same scene has the same background but different motion. A copy has the same background and the same motion.

# T, U frames of the two clips, K frames that are aligned, S side of a thumbnail, P its pixels.
"""

import dataclasses

import numpy as np
from einops import rearrange
from scipy import ndimage

SIDE_PX = 32  # of thumbnails, whatever the clip's own shape
MIN_OVERLAP = 0.7  # share of the shorter clip
STEP_S = 0.04  # step size of the search for the time offset
SLACK_S = 0.12  # tolerance per frame: copies at another rate repeat or drop frames
REGISTERED_FRAMES = 8
BLURS_PX = (2.0, 1.0, 0.7)  # of the registration, coarse to fine
NEWTON_STEPS = 5
MAX_ZOOM, MAX_SHIFT = 1.25, 0.25  # a border of 10 % on each side, cropped or added

# Measured on UCF101, ARID and re-encoded copies of them; README.md lists the results for copies and for other clips.
MIN_STILL = 0.80  # correlation of the pictures
MIN_MOTION = 0.82  # correlation of their changes
MAX_ELSEWHERE = 1.02  # difference at the same moment, relative to the smallest at any other moment
MIN_STILL_ALONE = 0.985  # for clips without motion, and for images
LITTLE_MOTION = 0.02  # relative to the picture's contrast; changes below it are encoding noise
ELSEWHERE_S = 0.4  # frames that are further apart in time count as other moments


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """Grey thumbnails of all frames of a clip, float32 [T, S, S], and their rate. An image is one frame at rate 0."""

    thumbs: np.ndarray
    fps: float


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How well two aligned clips agree.

    Attributes:
        still: correlation of the pictures, -1 to 1.
        motion: correlation of their changes, -1 to 1.
        moving: size of the changes, relative to the picture's contrast.
        elsewhere: difference of frames of the same moment, relative to the most similar frames of other moments.
            It is about 1 or more in another take of a repeated movement.
        offset_s: the time in the second clip at which the first clip starts.
    """

    still: float
    motion: float
    moving: float
    elsewhere: float
    offset_s: float

    @property
    def same(self) -> bool:
        """Whether the two are the same footage."""
        if self.moving < LITTLE_MOTION:
            return self.still >= MIN_STILL_ALONE
        return self.still >= MIN_STILL and self.motion >= MIN_MOTION and self.elsewhere <= MAX_ELSEWHERE


OTHER_SPEEDS = (2.0, 0.5)  # of the second clip, relative to the first
MIN_STILL_AT_ANY_SPEED = 0.6  # below it the pictures differ, whatever the speed
# More trials, so more chance. True copies at double speed have 0.97 and more, and 0.25 and less.
MIN_STILL_AT_OTHER_SPEED, MAX_ELSEWHERE_AT_OTHER_SPEED = 0.92, 0.5

NOTHING_IN_COMMON = Agreement(0.0, 0.0, 0.0, 0.0, 0.0)


def compare(first: Clip, second: Clip) -> Agreement:
    """Aligns two clips, with an overlap of at least MIN_OVERLAP of the shorter one, and compares them."""
    if len(first.thumbs) == 1 or len(second.thumbs) == 1:
        return _compare_pictures(first.thumbs[:1], second.thumbs[:1])
    placed = second
    for _ in range(2):  # the time offset is estimated again after the pictures are aligned
        offset_s = _offset(first, placed)
        a_KSS, b_KSS = _placed_over(first, second, offset_s)
        if len(a_KSS) < 2:
            return NOTHING_IN_COMMON
        chosen = np.unique(np.linspace(0, len(a_KSS) - 1, REGISTERED_FRAMES).astype(int))
        warped_USS, mask_SS = _warp(second.thumbs, _register(a_KSS[chosen], b_KSS[chosen]))
        placed = Clip(warped_USS, second.fps)
    return _agreement(first, placed, mask_SS, offset_s)


def same_at_any_speed(first: Clip, second: Clip) -> bool:
    """Whether two clips show the same footage, at the same speed, or one of them at double speed."""
    found = compare(first, second)
    if found.same or found.still < MIN_STILL_AT_ANY_SPEED or min(len(first.thumbs), len(second.thumbs)) == 1:
        return found.same
    others = (compare(first, Clip(second.thumbs, second.fps * speed)) for speed in OTHER_SPEEDS)
    return any(
        other.same and other.still >= MIN_STILL_AT_OTHER_SPEED and other.elsewhere <= MAX_ELSEWHERE_AT_OTHER_SPEED
        for other in others
    )


def _compare_pictures(a_1SS: np.ndarray, b_1SS: np.ndarray) -> Agreement:
    warped, mask = _warp(b_1SS, _register(a_1SS, b_1SS))
    return Agreement(_correlation(_centred(a_1SS[:, mask]), _centred(warped[:, mask])), 0.0, 0.0, 0.0, 0.0)


def _offset(first: Clip, second: Clip) -> float:
    """The time offset, in seconds, at which pictures and changes agree best."""
    a_TP, b_UP = (_centred(rearrange(clip.thumbs, "t h w -> t (h w)")) for clip in (first, second))
    pictures_TU = _unit(a_TP) @ _unit(b_UP).T
    changes_TU = _unit(a_TP - a_TP.mean(0)) @ _unit(b_UP - b_UP.mean(0)).T
    offsets_s = _offsets(first, second)
    at, inside = _nearest(first, second, offsets_s)
    rows = np.arange(len(a_TP))
    score = np.where(inside, pictures_TU[rows, at] + changes_TU[rows, at], 0).sum(1) / inside.sum(1)
    return float(offsets_s[score.argmax()])


def _offsets(first: Clip, second: Clip) -> np.ndarray:
    """All offsets at which enough of the shorter clip overlaps the other clip: float64 [offsets], in seconds."""
    lasts_s = [len(clip.thumbs) / clip.fps for clip in (first, second)]
    room_s = MIN_OVERLAP * min(lasts_s)
    return np.arange(room_s - lasts_s[0], lasts_s[1] - room_s + STEP_S, STEP_S)


def _nearest(first: Clip, second: Clip, offsets_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each frame of `first`: the nearest frame of `second`, and whether there is one. Both are [offsets, T]."""
    times_s = np.arange(len(first.thumbs)) / first.fps
    at = np.round((times_s + offsets_s[:, None]) * second.fps).astype(int)
    return np.clip(at, 0, len(second.thumbs) - 1), (at >= 0) & (at < len(second.thumbs))


def _placed_over(first: Clip, second: Clip, offset_s: float) -> tuple[np.ndarray, np.ndarray]:
    """The frames of both clips that are shown at the same time: [K, S, S] each."""
    at, inside = _nearest(first, second, np.array([offset_s]))
    return first.thumbs[inside[0]], second.thumbs[at[0, inside[0]]]


def _agreement(first: Clip, second: Clip, mask_SS: np.ndarray, offset_s: float) -> Agreement:
    """Compares clips that are aligned in space, and nearly aligned in time."""
    dense = _resample(second, STEP_S)
    a_TP, b_UP = _centred(first.thumbs[:, mask_SS]), _centred(dense.thumbs[:, mask_SS])
    at, inside = _nearest(first, dense, np.array([offset_s]))
    at, a_KP = at[0, inside[0]], a_TP[inside[0]]
    distances_KU = _distances(a_KP, b_UP, at)
    slack = round(SLACK_S / STEP_S)
    tried = [
        _at_moments(a_KP, b_UP, distances_KU, at + shift, offset_s + shift * STEP_S)
        for shift in range(-2 * slack, 2 * slack + 1)
    ]
    return max(tried, key=lambda agreement: agreement.still + agreement.motion)


def _distances(a_KP: np.ndarray, b_UP: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Squared distances of all pairs of frames [K, U], after their contrast is made equal."""
    aligned_KP = b_UP[at]
    gain = (a_KP * aligned_KP).sum() / ((aligned_KP**2).sum() + 1e-6)
    return (a_KP**2).sum(1)[:, None] + gain**2 * (b_UP**2).sum(1) - 2 * gain * a_KP @ b_UP.T


def _at_moments(a_KP, b_UP, distances_KU, at: np.ndarray, offset_s: float) -> Agreement:
    """Compares each frame with the most similar frame close to moment `at` [K], and with the frames far from it."""
    slack, last = round(SLACK_S / STEP_S), len(b_UP) - 1
    near = np.clip(at[:, None] + np.arange(-slack, slack + 1), 0, last)
    nearest = np.take_along_axis(distances_KU, near, axis=1)
    b_KP = b_UP[np.take_along_axis(near, nearest.argmin(1)[:, None], axis=1)[:, 0]]
    a_changes, b_changes = a_KP - a_KP.mean(0), b_KP - b_KP.mean(0)
    far = np.abs(np.arange(last + 1) - at[:, None]) > ELSEWHERE_S / STEP_S
    elsewhere = np.where(far, distances_KU, np.inf).min(1)
    known = np.isfinite(elsewhere)
    return Agreement(
        still=_correlation(a_KP, b_KP),
        motion=_correlation(a_changes, b_changes),
        moving=float(np.sqrt((a_changes**2).mean() / ((a_KP**2).mean() + 1e-9))),
        elsewhere=float(nearest.min(1)[known].sum() / (elsewhere[known].sum() + 1e-9)),
        offset_s=offset_s,
    )


def _resample(clip: Clip, step_s: float) -> Clip:
    """Resamples a clip to another rate, by linear interpolation between frames."""
    times = np.arange(0, (len(clip.thumbs) - 1) / clip.fps + 1e-6, step_s) * clip.fps
    before = np.minimum(times.astype(int), len(clip.thumbs) - 2)
    share = (times - before).astype(np.float32)[:, None, None]
    return Clip(clip.thumbs[before] * (1 - share) + clip.thumbs[before + 1] * share, 1 / step_s)


def _register(a_KSS: np.ndarray, b_KSS: np.ndarray) -> np.ndarray:
    """Zoom and shift of y, then of x, that align `b` with `a`: Gauss-Newton, coarse to fine. Unit: half a side."""
    placement = np.array([1.0, 0.0, 1.0, 0.0])
    for blur_px in BLURS_PX:
        a, b = (ndimage.gaussian_filter(x, (0, blur_px, blur_px)) for x in (a_KSS, b_KSS))
        for _ in range(NEWTON_STEPS):
            placement = _newton_step(a, b, placement)
    return placement


def _newton_step(a_KSS: np.ndarray, b_KSS: np.ndarray, placement: np.ndarray) -> np.ndarray:
    grid = np.linspace(-1, 1, SIDE_PX)
    warped, mask = _warp(b_KSS, placement)
    a, w = _centred(a_KSS[:, mask]), _centred(warped[:, mask])
    gain = (a * w).sum() / ((w * w).sum() + 1e-6)
    slopes = [gain * slope[:, mask] * SIDE_PX / 2 for slope in np.gradient(warped, axis=(1, 2))]
    at = [np.broadcast_to(axis, mask.shape)[mask] for axis in (grid[:, None], grid[None])]
    jacobian = np.stack([x for slope, y in zip(slopes, at, strict=True) for x in (slope * y, slope)], -1)
    jacobian = rearrange(jacobian / placement[[0, 0, 2, 2]], "k p d -> (k p) d")
    ridge = 1e-3 * len(jacobian) * np.eye(4)
    moved = placement + np.linalg.solve(jacobian.T @ jacobian + ridge, jacobian.T @ (a - gain * w).ravel())
    limits = np.array([MAX_ZOOM - 1, MAX_SHIFT] * 2)
    return np.clip(moved, [1, 0, 1, 0] - limits, [1, 0, 1, 0] + limits)


def _warp(thumbs: np.ndarray, placement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Zooms and shifts thumbnails. Also returns which pixels [S, S] come from inside of them."""
    rows, rows_inside = _interpolation(*placement[:2])
    columns, columns_inside = _interpolation(*placement[2:])
    return rows @ thumbs @ columns.T, rows_inside[:, None] & columns_inside


def _interpolation(zoom: float, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """The matrix [S, S] that samples one axis at zoom * x + shift, and which samples are inside."""
    at = (np.linspace(-1, 1, SIDE_PX) * zoom + shift + 1) * (SIDE_PX - 1) / 2
    inside = (at > -0.5) & (at < SIDE_PX - 0.5)
    at = np.clip(at, 0, SIDE_PX - 1)
    matrix = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(SIDE_PX)))
    return matrix.astype(np.float32), inside


def _centred(x: np.ndarray) -> np.ndarray:
    return x - x.mean(-1, keepdims=True)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-3)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / (np.sqrt((a * a).sum() * (b * b).sum()) + 1e-6))
