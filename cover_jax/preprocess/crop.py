"""Crop boxes, and resampling of a box to the model's square.

`draw_crop_box` draws the box of a training clip. Evaluation uses squares along the longer side (`square_box`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

ASPECTS = 64  # intervals in which the density of a random box's aspect is taken as constant
ASPECT_LEVELS = 1 << 16  # resolution of these densities


class Box(NamedTuple):
    """A rectangle in pixels, possibly fractional: pixel i covers i to i + 1."""

    top: jax.Array
    left: jax.Array
    height: jax.Array
    width: jax.Array


def resample(
    frames_THWC: jax.Array, shape_px: jax.Array, box: Box, size_px: int, flip=False, beyond: bool = False
) -> jax.Array:
    """The box of each frame as a size_px x size_px square, float32 in the input's units, mirrored if `flip`.

    Bilinear with half-pixel centres. For downscaling the kernel is widened by the scale (antialiasing). For a box on
    whole pixels this equals a crop followed by `tf.image.resize(..., antialias=True)`. With `beyond`, the kernel also
    reaches pixels outside the box, as if the frame were resized first and cropped then.

    It uses two matrix products per frame, A X B^T, and no gathers: the matrices contain scale, position and flip. The
    precision is `HIGHEST`, because TPUs (and GPUs, with TF32) otherwise round the weights to 8-11 bits, which is a
    visible part of a pixel level. The products are about a thousandth of the model's work.
    """
    height, width = _true_size(shape_px)
    rows_SH = _kernel(box.top, box.height, height, frames_THWC.shape[1], size_px, False, beyond)
    columns_SW = _kernel(box.left, box.width, width, frames_THWC.shape[2], size_px, flip, beyond)
    frames_THWC = frames_THWC.astype(jnp.float32)
    return jnp.einsum("ih,thwc,jw->tijc", rows_SH, frames_THWC, columns_SW, precision=jax.lax.Precision.HIGHEST)


def _kernel(start, extent, limit, num_in: int, num_out: int, reverse, beyond: bool) -> jax.Array:
    """[num_out, num_in] weights that resample [start, start + extent) of an axis of num_in pixels. Rows sum to 1.

    A pixel counts by its share inside that interval, or with `beyond` inside the frame. Pixels from `limit` on are
    padding and have weight 0.
    """
    scale = extent / num_out
    out = jnp.arange(num_out)
    out = jnp.where(reverse, num_out - 1 - out, out)
    centre = start + (out + 0.5) * scale
    left = jnp.arange(num_in, dtype=jnp.float32)
    tent = jnp.maximum(0.0, 1.0 - jnp.abs(centre[:, None] - (left + 0.5)) / jnp.maximum(scale, 1.0))
    first, end = (0.0, limit) if beyond else (start, jnp.minimum(start + extent, limit))
    weight = tent * jnp.clip(jnp.minimum(left + 1, end) - jnp.maximum(left, first), 0.0, 1.0)
    return weight / jnp.sum(weight, axis=1, keepdims=True)


def _true_size(shape_px):
    """Height and width as floats. The 0 x 0 of an undecodable example becomes 1 x 1, to avoid a division by 0."""
    return jnp.maximum(shape_px, 1).astype(jnp.float32)


def draw_crop_box(key, shape_px, augment: ConfigDict) -> Box:
    """A random box in a frame, drawn by the method `augment.crop`."""
    height, width = _true_size(shape_px)
    match augment.crop:
        case "area":
            return random_box(key, height, width, augment.crop_range, augment.crop_aspect)
        case "scale":
            # What a frame shows of its shorter side where that is `zoom` times the model's; at most the whole side.
            zoom, down, right = jax.random.uniform(key, (3,))
            side = jnp.minimum(height, width) / jnp.maximum(spread(zoom, *augment.crop_range), 1.0)
            return place_box(down, right, height, width, side, side)
        case "none":
            return square_box(shape_px, 0.5)
    raise ValueError(f"augment.crop={augment.crop!r}: must be 'area', 'scale' or 'none'")


def square_box(shape_px, place, share=1.0) -> Box:
    """A square at `place` along the longer side, in the middle of the shorter: 0 is the start of the side, 1 its end.

    `share` is its side in units of the shorter side.
    """
    height, width = _true_size(shape_px)
    side = share * jnp.minimum(height, width)
    down, right = (jnp.where(one > other, place, 0.5) for one, other in ((height, width), (width, height)))
    return place_box(down, right, height, width, side, side)


def random_box(key: jax.Array, height, width, share: tuple, aspect: tuple) -> Box:
    """A random box in a height x width frame: a share of its area and an aspect (width / height) for which it fits.

    The distribution is that of rejection sampling, as in torchvision's RandomResizedCrop: uniform share, log-uniform
    aspect, again until the box fits. But nothing is drawn again. The aspect comes first: an aspect is as probable as
    the range of shares that fit is long. Then the share is uniform in that range, from the least share to the largest
    that fits. If no box with the least share fits, it is the largest box of the aspect nearest to the frame's.
    """
    draw_area, draw_ratio, down, right = jax.random.uniform(key, (4,))
    ratio = _draw_fitting_aspect(draw_ratio, width / height, share, aspect)
    largest = _largest_share(ratio, width / height)
    area = spread(draw_area, jnp.minimum(share[0], largest), jnp.minimum(share[1], largest)) * height * width
    box_height, box_width = jnp.minimum(height, jnp.sqrt(area / ratio)), jnp.minimum(width, jnp.sqrt(area * ratio))
    return place_box(down, right, height, width, box_height, box_width)


def _draw_fitting_aspect(draw, frame_aspect, share: tuple, aspect: tuple) -> jax.Array:
    """Maps a uniform draw to the aspect of a box that fits, by the inverse of the cumulative distribution.

    The density over the logarithm of the aspect is the length of the range of shares that fit. It is computed in
    ASPECTS intervals between the two aspects whose largest box has the least share. The sums are of integers, and one
    interval alone gives the result: so it does not depend on the order in which a device adds.
    """
    low, high = jnp.clip(share[0] * frame_aspect, *aspect), jnp.clip(frame_aspect / share[0], *aspect)
    interval = jnp.arange(ASPECTS)
    middle = spread((interval + 0.5) / ASPECTS, low, high)
    room = jnp.minimum(share[1], _largest_share(middle, frame_aspect)) - share[0]
    room = jnp.where(share[0] < share[1], jnp.maximum(room, 0.0), 1.0)  # of equal ends all that fit are alike
    weight = 1 + (ASPECT_LEVELS * room * low / middle).astype(jnp.int32)
    end = jnp.cumsum(weight)
    start, place = end - weight, draw * end[-1]
    drawn = jnp.where((start <= place) & (place < end), interval + (place - start) / weight, 0.0)
    return spread(jnp.sum(drawn) / ASPECTS, low, high)


def _largest_share(aspect, frame_aspect):
    """Share of the frame's area of the largest box of an aspect."""
    return jnp.minimum(aspect / frame_aspect, frame_aspect / aspect)


def place_box(down, right, height, width, box_height, box_width) -> Box:
    """A box of a given size inside a height x width frame. `down` and `right` go from 0 (start) to 1 (end)."""
    return Box(down * (height - box_height), right * (width - box_width), box_height, box_width)


def spread(draw, low, high):
    """Maps a uniform draw from [0, 1) to [low, high)."""
    return low + draw * (high - low)


def inside(box: Box, side: int) -> jax.Array:
    """bool [side, side]: the pixels whose centre is in the box."""
    centre = jnp.arange(side) + 0.5
    rows = (centre >= box.top) & (centre < box.top + box.height)
    columns = (centre >= box.left) & (centre < box.left + box.width)
    return rows[:, None] & columns[None, :]
