"""Random crop boxes, against the rejection sampling that others have."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cover_jax.preprocess import crop

# N boxes; a box is top, left, height, width

NUM_BOXES = 20_000
ASPECT = (3 / 4, 4 / 3)
FRAMES = {"16:9": (256, 456), "9:16": (456, 256), "1:1": (256, 256), "4:3": (256, 340)}  # height, width
RANGES = ((0.08, 1.0), (0.3, 1.0), (0.5, 1.0))  # of the box's share of the frame: torchvision, the default, finetune.py
NOISE = 0.025  # of the distance of two samples of NUM_BOXES: above 1.95 * sqrt(2 / NUM_BOXES), its 99.9 % quantile
# Share of boxes for which torchvision gives up after 10 draws and takes a box of full height (or width) in the middle.
GIVES_UP = {("16:9", (0.5, 1.0)): 0.166, ("9:16", (0.5, 1.0)): 0.166}


@functools.partial(jax.jit, static_argnums=2)
@functools.partial(jax.vmap, in_axes=(0, None, None))  # one program for all frames and ranges
def _draw(settings, seed, num_boxes):
    height, width, least, most = settings
    keys = jax.random.split(jax.random.key(seed), num_boxes)
    return jax.vmap(lambda key: jnp.stack(crop.random_box(key, height, width, (least, most), ASPECT)))(keys)


@functools.cache
def boxes(frame: str, share: tuple[float, float]) -> np.ndarray:
    return _drawn()[frame, share]


@functools.cache
def _drawn() -> dict:
    cases = [(frame, share) for frame in FRAMES for share in RANGES]
    settings = np.float32([(*FRAMES[frame], *share) for frame, share in cases])
    return dict(zip(cases, np.asarray(_draw(settings, 0, NUM_BOXES)), strict=True))


@functools.cache
def rejection_sampling(frame: str, share: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes as torchvision.transforms.RandomResizedCrop.get_params draws them, and whether each was drawn or is its
    fallback: whole pixels; 10 draws of area and aspect until the box fits; else the largest box in the middle.
    """
    rng, (height, width) = np.random.default_rng(0), FRAMES[frame]
    found, drawn = np.zeros((NUM_BOXES, 4)), np.zeros(NUM_BOXES, bool)
    for _ in range(10):
        area = rng.uniform(*share, NUM_BOXES) * height * width
        aspect = np.exp(rng.uniform(*np.log(ASPECT), NUM_BOXES))
        box_height, box_width = np.round(np.sqrt(area / aspect)), np.round(np.sqrt(area * aspect))
        fits = ~drawn & (box_height <= height) & (box_width <= width)
        down, right = np.maximum(height - box_height, 0), np.maximum(width - box_width, 0)
        box = (rng.integers(0, down + 1), rng.integers(0, right + 1), box_height, box_width)
        found[fits], drawn = np.stack(box, 1)[fits], drawn | fits
    box_height = min(height, round(width / ASPECT[0]))
    box_width = min(width, round(height * ASPECT[1]))
    found[~drawn] = ((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)
    return found, drawn


def measures(box_N4: np.ndarray, frame: str, pixel: float) -> dict[str, np.ndarray]:
    """What is compared. `pixel`: 1 where places are whole pixels; they are spread over their pixel."""
    (height, width), (top, left, box_height, box_width) = FRAMES[frame], box_N4.T
    inside = np.random.default_rng(1).uniform(0, pixel, len(box_N4))
    return {
        "area": box_height * box_width,
        "aspect": box_width / box_height,
        "height": box_height,
        "width": box_width,
        "down": (top + inside) / (height - box_height + pixel),
        "right": (left + inside) / (width - box_width + pixel),
    }


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Kolmogorov-Smirnov: the largest difference of two cumulative distributions."""
    values = np.concatenate([first, second])
    below = [np.searchsorted(np.sort(one), values, side="right") / len(one) for one in (first, second)]
    return np.abs(below[0] - below[1]).max()


def full_height(box_N4: np.ndarray, frame: str) -> float:
    """Share of boxes that, in whole pixels, have the frame's height."""
    return np.mean(np.round(box_N4[:, 2]) == FRAMES[frame][0])


@pytest.mark.parametrize("share", RANGES)
@pytest.mark.parametrize("frame", FRAMES)
def test_boxes_are_distributed_as_in_rejection_sampling(frame, share):
    ours, (theirs, drawn) = boxes(frame, share), rejection_sampling(frame, share)
    gives_up = GIVES_UP.get((frame, share), 0.0)
    assert np.mean(~drawn) == pytest.approx(gives_up, abs=0.01)
    # Where torchvision finds a box, the boxes are alike in all that is measured. Whole pixels let it accept boxes up to
    # half a pixel too large: its boxes of nearly full height are a little more frequent.
    our, their = measures(ours, frame, 0.0), measures(theirs[drawn], frame, 1.0)
    half_pixel = {"height": 0.03, "width": 0.03}
    for name, values in our.items():
        assert distance(values, their[name]) < NOISE + half_pixel.get(name, 0.0), name
    # In all, they differ by the boxes for which it gives up.
    for name in ("area", "aspect"):
        assert distance(our[name], measures(theirs, frame, 1.0)[name]) < NOISE + gives_up, name


def test_few_boxes_keep_the_full_height():
    """16:9 under configs/finetune.py: as a part that fits was looked for, no box is shrunk to the edge."""
    frame, share = "16:9", (0.5, 1.0)
    theirs, drawn = rejection_sampling(frame, share)
    assert full_height(boxes(frame, share), frame) == pytest.approx(0.02, abs=0.01)
    assert full_height(theirs[drawn], frame) == pytest.approx(0.04, abs=0.01)
    assert full_height(theirs, frame) == pytest.approx(0.19, abs=0.02)  # with those for which it gives up


@pytest.mark.parametrize("share", RANGES)
@pytest.mark.parametrize("frame", FRAMES)
def test_boxes_are_inside_the_frame_and_the_ranges(frame, share):
    (height, width), (top, left, box_height, box_width) = FRAMES[frame], boxes(frame, share).T
    assert top.min() >= 0 and left.min() >= 0
    assert (top + box_height).max() <= height + 1e-3 and (left + box_width).max() <= width + 1e-3
    area, aspect = box_height * box_width / (height * width), box_width / box_height
    assert share[0] - 1e-4 < area.min() and area.max() < share[1] + 1e-4
    assert ASPECT[0] - 1e-4 < aspect.min() and aspect.max() < ASPECT[1] + 1e-4


def box_of(frame, share, aspect=ASPECT, seed=0):
    return jax.jit(crop.random_box, static_argnums=(3, 4))(jax.random.key(seed), *map(float, frame), share, aspect)


@pytest.mark.parametrize(("frame", "share", "aspect", "size"), [
    ((50, 100), (1.0, 1.0), (1.0, 1.0), (50, 50)),  # the whole area as a square: the largest square
    ((90, 160), (0.9, 1.0), ASPECT, (90, 120)),  # no box fits: full height, of the widest aspect
    ((160, 90), (0.9, 1.0), ASPECT, (120, 90)),
    ((64, 64), (1.0, 1.0), ASPECT, (64, 64)),  # only the frame itself
    ((100, 100), (0.25, 0.25), (1.0, 1.0), (50, 50)),  # the two ends of both ranges are equal
])  # fmt: skip
def test_where_one_size_is_left_it_is_taken(frame, share, aspect, size):
    box = box_of(frame, share, aspect)
    np.testing.assert_allclose([box.height, box.width], size, rtol=1e-3)
    assert 0 <= box.top <= frame[0] - size[0] + 1e-3 and 0 <= box.left <= frame[1] - size[1] + 1e-3


def test_aspects_that_fit_are_equally_probable_for_a_given_area():
    """As in mixing and in the limit of a narrow range."""
    draws = [box_of((100, 100), (0.9, 0.9), ASPECT, seed) for seed in range(200)]
    log_aspect = np.log([float(box.width / box.height) for box in draws])
    assert log_aspect.min() > np.log(0.9) - 1e-4 and log_aspect.max() < -np.log(0.9) + 1e-4
    assert abs(log_aspect.mean()) < 0.02 and log_aspect.std() == pytest.approx(-2 * np.log(0.9) / np.sqrt(12), rel=0.1)
