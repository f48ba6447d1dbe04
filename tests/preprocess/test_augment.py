"""Colour jitter, RandAugment and erasing of one clip."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from cover_jax.preprocess import augment as augment_ops
from cover_jax.preprocess import crop
from cover_jax.preprocess.crop import Box

# T frames, H height, W width, C channels

SIDE = 32
GRAY = (128, 128, 128)


@pytest.fixture(scope="module")
def clip_THWC() -> np.ndarray:
    """Two frames of a bright gradient with noise: no channel fills 0..255, and no two have the same histogram."""
    rng = np.random.default_rng(0)
    ramp_HW = np.linspace(20, 190, SIDE)[:, None] + np.linspace(0, 20, SIDE)[None, :]
    return np.clip(ramp_HW[None, :, :, None] * [1.0, 0.8, 0.6] + rng.normal(0, 9, (2, SIDE, SIDE, 3)), 9, 240).astype(
        np.uint8
    )


apply_op = jax.jit(augment_ops.apply_op)


def many(draw, count):
    """`draw(key)` for `count` keys."""
    drawn = jax.jit(jax.vmap(lambda seed: draw(jax.random.key(seed))))(jnp.arange(count))
    return jax.tree.map(np.asarray, drawn)


def affine(*matrix):
    """Pillow's own transform: its coordinates start at the corner, ours at the centre."""
    (a, b, c), (d, e, f) = matrix
    centre = SIDE / 2
    data = (a, b, c + centre * (1 - a - b), d, e, f + centre * (1 - d - e))
    return lambda image: image.transform(image.size, Image.AFFINE, data, Image.NEAREST, fillcolor=GRAY)


def enhance(kind, factor):
    return lambda image: kind(image).enhance(factor)


PIL_OPS = {
    "autocontrast": (0, 1.0, ImageOps.autocontrast, 1),
    "equalize": (1, 1.0, ImageOps.equalize, 0),
    "solarize": (2, 0.5, lambda image: ImageOps.solarize(image, 128), 0),
    "posterize": (3, -0.5, lambda image: ImageOps.posterize(image, 6), 0),
    "color": (4, -0.5, enhance(ImageEnhance.Color, 0.55), 2),
    "contrast": (5, 0.5, enhance(ImageEnhance.Contrast, 1.45), 2),
    "brightness": (6, 0.5, enhance(ImageEnhance.Brightness, 1.45), 1),
    "sharpness": (7, 1.0, enhance(ImageEnhance.Sharpness, 1.9), 2),
    "identity": (8, 1.0, lambda image: image, 0),
    "rotate": (9, 0.5, lambda image: image.rotate(15, Image.NEAREST, fillcolor=GRAY), 0),
    "shear_x": (10, 1.0, affine((1, 0.3, 0), (0, 1, 0)), 0),
    "shear_y": (11, -1.0, affine((1, 0, 0), (-0.3, 1, 0)), 0),
    "translate_x": (12, 331 / 150 / 4, affine((1, 0, SIDE / 4), (0, 1, 0)), 0),
    "translate_y": (13, -331 / 150 / 4, affine((1, 0, 0), (0, 1, -SIDE / 4)), 0),
}


@pytest.mark.parametrize("name", PIL_OPS)
def test_op_equals_pillow(name, clip_THWC):
    """Within Pillow's rounding to whole levels; a warp may differ where a coordinate falls between two pixels."""
    number, strength, pil_op, tolerance = PIL_OPS[name]
    image_HWC = clip_THWC[0]
    want = np.asarray(pil_op(Image.fromarray(image_HWC))).astype(np.float32)
    got = apply_op(number, image_HWC[None].astype(np.float32), strength)[0]
    assert np.mean(np.abs(got - want) > tolerance) <= (0.01 if number > 8 else 0)
    assert name == "identity" or np.mean(np.abs(want - image_HWC)) > 0.5


def test_every_op_is_listed():
    assert augment_ops.NUM_OPS == len(PIL_OPS) == 14
    assert sorted(number for number, *_ in PIL_OPS.values()) == list(range(14))


def test_statistics_are_the_clips(clip_THWC):
    """Equalising a clip is equalising its frames side by side, not one by one."""
    wide = np.concatenate(list(clip_THWC), axis=1)
    want = np.split(np.asarray(ImageOps.equalize(Image.fromarray(wide))), 2, axis=1)
    np.testing.assert_array_equal(apply_op(1, clip_THWC.astype(np.float32), 0.0), np.stack(want))


@pytest.mark.parametrize("number", range(14))
def test_strength_zero_is_identity(number, clip_THWC):
    frames = clip_THWC.astype(np.float32)
    changed = bool(np.any(np.abs(apply_op(number, frames, 0.0) - frames) > 1e-3))
    assert changed == (number < 2)  # autocontrast and equalize have no strength


@pytest.mark.parametrize("number", range(4))
def test_one_colour_stays_finite(number):
    frames = np.full((1, SIDE, SIDE, 3), 7.0, np.float32)
    np.testing.assert_array_equal(apply_op(number, frames, 0.1), frames)


def test_randaugment_draws_all_operations(clip_THWC):
    frames = clip_THWC[:, ::2, ::2].astype(np.float32)
    out = many(lambda key: augment_ops.randaugment(key, frames, 1, 20), 200)
    # Autocontrast, equalize, solarize, posterize and identity know no sign; it doubles the nine others.
    assert len({clip.round(2).tobytes() for clip in out}) == 5 + 2 * 9


def test_randaugment_layers_follow_one_another(clip_THWC):
    key, frames = jax.random.key(3), clip_THWC.astype(np.float32)
    got = jax.jit(augment_ops.randaugment, static_argnums=(2, 3))(key, frames, 2, 9)
    for draw_op, draw_sign in jax.random.uniform(key, (2, 2)):
        frames = apply_op(int(draw_op * 14), frames, 0.3 if draw_sign < 0.5 else -0.3)
    np.testing.assert_allclose(got, frames, atol=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        lambda key, frames: augment_ops.color_jitter(key, frames, 1.0, 0.5),
        lambda key, frames: augment_ops.randaugment(key, frames, 2, 15),
        lambda key, frames: augment_ops.erase(key, frames, 1.0),
    ],
)
def test_frames_of_a_clip_stay_alike(change, clip_THWC):
    still = np.repeat(clip_THWC[:1], 3, axis=0).astype(np.float32)
    out = many(lambda key: change(key, still), 8)
    np.testing.assert_array_equal(out, np.repeat(out[:, :1], 3, axis=1))
    assert np.any(out != still)


def test_color_jitter_factors():
    """Of a grey clip of one value, contrast and saturation change nothing: what is left is the brightness factor."""
    frames = np.full((1, 2, 2, 3), 100.0, np.float32)
    factors = many(lambda key: augment_ops.color_jitter(key, frames, 0.5, 0.4), 1000)[:, 0, 0, 0, 0] / 100
    jittered = np.abs(factors - 1) > 1e-5
    assert 0.45 < jittered.mean() < 0.55
    assert 0.6 <= factors.min() < 0.61 and 1.39 < factors.max() <= 1.4


@pytest.mark.parametrize(
    ("change", "statistic"),
    [
        (augment_ops._contrast, lambda x: x.std(axis=(0, 1, 2)).mean()),
        (augment_ops._color, lambda x: x.std(axis=-1).mean()),
    ],
)
def test_contrast_and_saturation_scale_what_they_name(change, statistic, clip_THWC):
    frames = 100 + (clip_THWC.astype(np.float32) - 100) / 4  # far from 0 and 255, which clip
    assert statistic(np.asarray(change(frames, 1.5))) == pytest.approx(1.5 * statistic(frames), rel=1e-3)


def test_erase_share_and_noise():
    frames = np.full((2, SIDE, SIDE, 3), 9.0, np.float32)
    out = many(lambda key: augment_ops.erase(key, frames, 0.5), 400)
    erased = (out != 9.0).all(-1)[:, 0]
    share = erased.mean(axis=(1, 2))
    assert 0.42 < np.mean(share > 0) < 0.58
    assert 0.005 < share[share > 0].min() < 0.06 and 0.28 < share.max() < 0.36  # 0.02 to 0.33, in whole pixels
    noise = out[:, 0][erased]
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    rows, columns = erased[share.argmax()].any(1).sum(), erased[share.argmax()].any(0).sum()
    assert erased[share.argmax()].sum() == rows * columns  # a rectangle


def test_inside_counts_pixel_centres():
    mask = crop.inside(Box(1.0, 0.4, 2.0, 1.2), 4)
    want = np.zeros((4, 4), bool)
    want[1:3, 0:2] = True
    np.testing.assert_array_equal(mask, want)
