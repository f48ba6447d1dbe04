"""Augmentation of one clip on the device: colour jitter, RandAugment, erasing. `model_input` maps it over a batch.

There is one random draw per clip: every frame gets the same change. Statistics (mean, range, histogram) are those of
the clip, because statistics per frame would make brightness flicker. An image is a clip of one frame, so for it the
operations are the usual ones. Pixel values are float32, 0..255, except in `erase`, which works on normalised values.

No function loops until a draw is accepted (rejection sampling): inside a vmap over a sharded batch, all devices would
wait for the slowest. Draws that belong together are one call, because on a CPU the generator compiles slowly, once per
call.
"""

import jax
import jax.numpy as jnp
from einops import rearrange

from cover_jax.preprocess import crop

# T frames, H height, W width, C channels, N levels of a pixel value, X all pixels of a clip

# Ranges of AutoAugment (arXiv 1805.09501, table 6) at magnitude MAX_MAGNITUDE. RandAugment has the same (1909.13719).
MAX_MAGNITUDE = 30
MAX_ROTATION_DEG = 30.0
MAX_SHEAR = 0.3
MAX_TRANSLATION = 150 / 331  # as a share of the side; AutoAugment: 150 of 331 pixels
MAX_BLEND = 0.9  # brightness, colour, contrast and sharpness factors: 0.1 to 1.9
MAX_POSTERIZE_BITS = 4  # number of the 8 bits that are removed
FILL = 128.0  # value outside the frame: mid-grey, as in TensorFlow's code (tensorflow/tpu)

# Random erasing (arXiv 1708.04896, section 4.2): share of the frame, and width / height.
ERASE_SHARE = (0.02, 0.33)
ERASE_ASPECT = (0.3, 3.3)

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow's "L"


def color_jitter(key: jax.Array, frames_THWC: jax.Array, prob: float, strength: float) -> jax.Array:
    """With probability `prob`: brightness, contrast, then saturation, each by a factor in 1 +- `strength`."""
    apply, *draws = jax.random.uniform(key, (4,))
    jittered = frames_THWC
    for change, draw in zip((_brightness, _contrast, _color), draws, strict=True):
        jittered = change(jittered, crop.spread(draw, 1 - strength, 1 + strength))
    return jnp.where(apply < prob, jittered, frames_THWC)


def erase(key: jax.Array, frames_THWC: jax.Array, prob: float) -> jax.Array:
    """With probability `prob`, fills one rectangle with normal noise per pixel and channel, the same in all frames.

    frames_THWC are normalised, so the noise has about the same mean and deviation.
    """
    key_apply, key_box, key_noise = jax.random.split(key, 3)
    side = frames_THWC.shape[1]
    gone = crop.inside(crop.random_box(key_box, side, side, ERASE_SHARE, ERASE_ASPECT), side)
    gone &= jax.random.bernoulli(key_apply, prob)
    return jnp.where(gone[..., None], jax.random.normal(key_noise, frames_THWC.shape[1:]), frames_THWC)


def randaugment(key: jax.Array, frames_THWC: jax.Array, layers: int, magnitude: float) -> jax.Array:
    """Applies `layers` operations in sequence, each drawn uniformly from the paper's 14 (arXiv 1909.13719, section 3).

    Args:
        magnitude: 0 to MAX_MAGNITUDE, the same for all operations. Operations with a direction draw its sign.
    """
    for draw_op, draw_sign in jax.random.uniform(key, (layers, 2)):
        op = jnp.floor(draw_op * NUM_OPS).astype(jnp.int32)
        sign = jnp.where(draw_sign < 0.5, 1.0, -1.0)
        frames_THWC = apply_op(op, frames_THWC, sign * magnitude / MAX_MAGNITUDE)
    return frames_THWC


def apply_op(op: jax.Array, frames_THWC: jax.Array, strength: jax.Array) -> jax.Array:
    """Operation number `op` of OPS at `strength`, -1 to 1.

    Under vmap, a switch computes all its branches. So the five geometric operations share one warp, and the switch
    selects only their 2 x 3 matrix. An index out of range selects the first or last branch, which is `identity` there.
    """
    frames_THWC = jnp.round(frames_THWC)  # the operations are defined on whole levels
    frames_THWC = jax.lax.switch(op, TONES, frames_THWC, strength)
    return _warp(frames_THWC, jax.lax.switch(op - len(TONES) + 1, WARPS, strength))


def _identity(frames_THWC, strength):
    return frames_THWC


def _autocontrast(frames_THWC, strength):
    """Stretches each channel's range to 0..255. A channel with a single value stays unchanged."""
    low = jnp.min(frames_THWC, axis=(0, 1, 2))
    spread = jnp.max(frames_THWC, axis=(0, 1, 2)) - low
    return jnp.where(spread > 0, (frames_THWC - low) * 255 / jnp.maximum(spread, 1.0), frames_THWC)


def _equalize(frames_THWC, strength):
    """Equalizes each channel's histogram."""
    pixels_XC = rearrange(frames_THWC.astype(jnp.int32), "t h w c -> (t h w) c")
    equal_XC = jax.vmap(_equalize_channel, 1, 1)(pixels_XC)
    return equal_XC.reshape(frames_THWC.shape).astype(frames_THWC.dtype)


def _equalize_channel(pixels_X):
    """Pillow's rule, in integers. A channel with (nearly) one value stays unchanged."""
    count_N = jnp.bincount(pixels_X, length=256)
    below_N = jnp.cumsum(count_N) - count_N
    step = below_N[jnp.max(pixels_X)] // 255
    table_N = jnp.minimum((step // 2 + below_N) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table_N[pixels_X], pixels_X)


def _solarize(frames_THWC, strength):
    return jnp.where(frames_THWC < 256 * (1 - jnp.abs(strength)), frames_THWC, 255 - frames_THWC)


def _posterize(frames_THWC, strength):
    step = jnp.left_shift(1, jnp.round(MAX_POSTERIZE_BITS * jnp.abs(strength)).astype(jnp.int32))
    return jnp.floor(frames_THWC / step) * step


def _brightness(frames_THWC, factor):
    return _blend(jnp.zeros_like(frames_THWC), frames_THWC, factor)


def _contrast(frames_THWC, factor):
    return _blend(jnp.mean(_gray(frames_THWC)), frames_THWC, factor)


def _color(frames_THWC, factor):
    return _blend(_gray(frames_THWC), frames_THWC, factor)


def _sharpness(frames_THWC, factor):
    """Blends with Pillow's SMOOTH filter: 3 x 3, centre weight 5, other weights 1. The border stays unchanged."""
    rows = frames_THWC[:, :-2] + frames_THWC[:, 1:-1] + frames_THWC[:, 2:]
    around = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    centre = frames_THWC[:, 1:-1, 1:-1]
    return _blend(frames_THWC.at[:, 1:-1, 1:-1].set((around + 4 * centre) / 13), frames_THWC, factor)


def _blend(plain, frames_THWC, factor):
    """Blends: `plain` at factor 0, the frames at 1, extrapolation above 1."""
    return jnp.clip(plain + factor * (frames_THWC - plain), 0.0, 255.0)


def _gray(frames_THWC):
    return jnp.sum(frames_THWC * jnp.array(LUMA), axis=-1, keepdims=True)


def _as_tone(change):
    """Turns a function of a factor around 1 into an operation with a strength."""
    return lambda frames_THWC, strength: change(frames_THWC, 1.0 + MAX_BLEND * strength)


def _rotate(strength):
    angle = jnp.deg2rad(MAX_ROTATION_DEG * strength)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.array([[cos, -sin, 0.0], [sin, cos, 0.0]])


def _shear_x(strength):
    return jnp.array([[1.0, MAX_SHEAR * strength, 0.0], [0.0, 1.0, 0.0]])


def _shear_y(strength):
    return jnp.array([[1.0, 0.0, 0.0], [MAX_SHEAR * strength, 1.0, 0.0]])


def _translate_x(strength):
    return jnp.array([[1.0, 0.0, MAX_TRANSLATION * strength], [0.0, 1.0, 0.0]])


def _translate_y(strength):
    return jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, MAX_TRANSLATION * strength]])


def _stay(strength):
    return jnp.eye(2, 3)


def _warp(frames_THWC, matrix):
    """Moves pixels: the pixel at (x, y) comes from matrix @ (x, y, 1), nearest neighbour; outside it is FILL.

    Coordinates are relative to the centre, in units of the side of the (square) frame. All frames and channels of a
    place move together, so one index per place is enough.
    """
    side = frames_THWC.shape[1]
    place = (jnp.arange(side) + 0.5) / side - 0.5
    y, x = jnp.meshgrid(place, place, indexing="ij")
    x, y = (jnp.floor((m[0] * x + m[1] * y + m[2] + 0.5) * side).astype(jnp.int32) for m in matrix)
    valid = (x >= 0) & (x < side) & (y >= 0) & (y < side)
    source = jnp.where(valid, y * side + x, 0)
    places = rearrange(frames_THWC, "t h w c -> (h w) t c")
    moved = rearrange(places[source], "h w t c -> t h w c")
    return jnp.where(valid[..., None], moved, FILL)


# Both lists share one number: `_identity` ends the first and `_stay` begins the second.
TONES = (
    _autocontrast,
    _equalize,
    _solarize,
    _posterize,
    _as_tone(_color),
    _as_tone(_contrast),
    _as_tone(_brightness),
    _as_tone(_sharpness),
    _identity,
)
WARPS = (_stay, _rotate, _shear_x, _shear_y, _translate_x, _translate_y)
NUM_OPS = len(TONES) + len(WARPS) - 1
