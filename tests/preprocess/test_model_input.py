"""From a uint8 Batch to the model's input: geometry, order, draws, mixing, and that all of it stays on its device."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from configs import common
from cover_jax.preprocess import crop, model_input
from cover_jax.preprocess.crop import Box

# B batch, T frames, H height, W width, C channels or classes

MEAN, STD = (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)
NORMALIZATION = model_input.Normalization(MEAN, STD)
STANDARDIZED = model_input.Normalization(MEAN, STD, standardize=True)
OFF = {"flip": False, "crop": "none"}
ALL_ON = {
    "color_prob": 0.8, "randaugment_layers": 1, "mixup_alpha": 0.8, "cutmix_alpha": 1.0, "erase_prob": 0.5,
}  # fmt: skip
SIZE_PX, CLASS_NAMES = 16, ("a", "b", "c", "d", "e")
SIDES = ("jump", "turn left", "turn right", "left hook", "run")


def make_batch(size=8, num_frames=2, canvas=(24, 32), true=(20, 28), **changes):
    """Noise on a canvas; the picture is its top left `true` part."""
    rng = np.random.default_rng(0)
    return {
        "frames": rng.integers(0, 256, (size, num_frames, *canvas, 3), dtype=np.uint8),
        "size_px": np.tile(np.int32(true), (size, 1)),
        "label": np.arange(size, dtype=np.int32) % len(CLASS_NAMES),
        "weight": np.ones(size, np.float32),
        "seed": rng.integers(0, 2**32, size, dtype=np.uint32),
        **changes,
    }


def augment(**changes):
    config = common.augment()
    config.update(changes)
    return config


def train_fn(options, **changes):
    settings = {"size_px": SIZE_PX, "class_names": CLASS_NAMES, "label_smoothing": 0.0, "normalization": NORMALIZATION}
    settings |= changes
    return functools.partial(model_input.train, settings=model_input.TrainInput(augment(**options), **settings))


@functools.cache
def jitted(options, changes):
    return jax.jit(train_fn(dict(options), **dict(changes)))


def train(batch, options, **changes):
    """Frames and targets as NumPy."""
    out = train_all(batch, options, **changes)
    return out["frames"], out["targets"]


def train_all(batch, options, **changes):
    """All that training gets, as NumPy; the functions of equal options are compiled once."""
    out = jitted(tuple(sorted(options.items())), tuple(sorted(changes.items())))(batch)
    return jax.tree.map(np.asarray, out)


def evaluate(batch, **changes):
    settings = {"size_px": SIZE_PX, "clips": 1, "crops": 1, "normalization": NORMALIZATION, **changes}
    return np.asarray(jax.jit(functools.partial(model_input.evaluate, **settings))(batch))


@functools.partial(jax.jit, static_argnums=3)
def resample(frames_THWC, shape_px, box, size_px, flip=False):
    return crop.resample(frames_THWC, jnp.array(shape_px), Box(*box), size_px, flip)


# Geometry


@pytest.mark.parametrize("box", [(0, 0, 40, 60), (3, 5, 32, 32), (7, 2, 9, 12), (1, 0, 16, 16), (10, 20, 30, 11)])
@pytest.mark.parametrize("size_px", [16, 32])
def test_resample_is_crop_then_resize(box, size_px):
    """Within a hundredth of a pixel level, larger and smaller."""
    frames = make_batch(1, 2, (44, 64))["frames"][0]
    top, left, height, width = box
    crop = frames[:, top : top + height, left : left + width].astype(np.float32)
    want = jax.image.resize(crop, (2, size_px, size_px, 3), "linear", antialias=True, precision="highest")
    np.testing.assert_allclose(resample(frames, (40, 60), box, size_px), want, atol=0.01)


def test_resample_equals_tensorflow():
    import tensorflow as tf  # here: it takes seconds to load

    frames = make_batch(1, 2, (44, 64))["frames"][0]
    for size_px in (13, 32):
        want = tf.image.resize(frames[:, 3:35, 5:37], (size_px, size_px), antialias=True)
        np.testing.assert_allclose(resample(frames, (40, 60), (3, 5, 32, 32), size_px), want, atol=0.01)


def test_resample_between_pixels():
    """A ramp stays the same ramp where a box starts and ends inside pixels."""
    ramp = np.broadcast_to(np.arange(40, dtype=np.uint8)[None, :, None, None], (1, 40, 40, 3))
    got = resample(ramp, (40, 40), (10.25, 3.5, 20.0, 20.0), 40)[0, :, 0, 0]
    want = 10.25 + (np.arange(40) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(got[2:-2], want[2:-2], atol=1e-3)


def test_resample_keeps_one_colour_and_the_mean_of_a_ramp():
    flat = np.full((1, 24, 32, 3), 77, np.uint8)
    np.testing.assert_allclose(resample(flat, (20, 28), (1.3, 2.7, 11.1, 17.9), 16), 77, atol=1e-4)
    ramp = np.broadcast_to(np.arange(0, 240, 10, dtype=np.uint8)[None, :, None, None], (1, 24, 24, 3))
    for size_px in (7, 24, 50):
        assert np.mean(resample(ramp, (24, 24), (0, 0, 24, 24), size_px)) == pytest.approx(ramp.mean(), abs=1e-3)


def test_flip_mirrors_and_twice_is_the_identity():
    frames, shape_px, whole = make_batch(1)["frames"][0][:, :16, :16], (16, 16), (0, 0, 16, 16)
    once = resample(frames, shape_px, whole, 16, True)
    np.testing.assert_allclose(once, frames[:, :, ::-1], atol=1e-4)
    twice = resample(np.round(once).astype(np.uint8), shape_px, whole, 16, True)
    np.testing.assert_allclose(twice, frames, atol=1e-4)


def test_size_without_change_is_the_picture_itself():
    batch = make_batch(2, true=(16, 16))
    want = batch["frames"][:, :, :16, :16].astype(np.float32)
    np.testing.assert_allclose(evaluate(batch, normalization=model_input.LEVELS), want, atol=1e-4)


@pytest.mark.parametrize("crop", ["area", "scale", "none"])
def test_padding_never_leaks(crop):
    sizes = np.int32([(20, 28), (24, 32), (1, 32), (13, 9)] * 8)
    batch = make_batch(32, 1, size_px=sizes)
    other = {**batch, "frames": batch["frames"].copy()}
    for clip, (height, width) in zip(other["frames"], sizes, strict=True):
        clip[:, height:] = 255 - clip[:, height:]
        clip[:, :, width:] = 255
    options = {"crop": crop, "crop_range": (0.3, 1.5) if crop == "scale" else (0.3, 1.0)}
    np.testing.assert_array_equal(train(batch, options)[0], train(other, options)[0])
    np.testing.assert_array_equal(evaluate(batch, crops=3), evaluate(other, crops=3))


def crop_boxes(true, **options):
    boxes = jax.vmap(lambda seed: crop.draw_crop_box(jax.random.key(seed), jnp.array(true), augment(**options)))
    return jax.tree.map(np.asarray, jax.jit(boxes)(jnp.arange(500)))


def test_crop_scale_zooms_and_is_limited_by_the_picture():
    box = crop_boxes((40, 60), crop="scale", crop_range=(0.5, 2.0))
    np.testing.assert_array_equal(box.height, box.width)
    assert box.height.min() == pytest.approx(20, abs=0.2)
    assert 0.25 < np.mean(box.height == 40) < 0.42  # a zoom below 1 asks for more than there is
    assert np.all(box.top + box.height <= 40 + 1e-3) and np.all(box.left + box.width <= 60 + 1e-3)
    assert box.left.min() < 1 and box.left.max() > 30


def test_crop_area_stays_inside_and_in_range():
    box = crop_boxes((40, 60), crop="area", crop_range=(0.1, 0.5), crop_aspect=(0.5, 2.0))
    share, aspect = box.height * box.width / 2400, box.width / box.height
    assert 0.099 < share.min() < 0.12 and 0.48 < share.max() < 0.501
    assert aspect.min() > 0.499 and aspect.max() < 2.001
    assert np.all(box.top + box.height <= 40 + 1e-3) and np.all(box.left + box.width <= 60 + 1e-3)


def test_crop_none_is_the_centre_square():
    box = crop_boxes((40, 60), crop="none")
    assert [float(side[0]) for side in box] == [0, 10, 40, 40]


def test_unknown_crop_is_refused():
    with pytest.raises(ValueError, match="augment.crop='centre'.*'area', 'scale' or 'none'"):
        jax.eval_shape(train_fn({"crop": "centre"}), make_batch())


# Values and targets


def test_normalisation():
    batch = make_batch(1, frames=np.full((1, 2, 24, 32, 3), 51, np.uint8))  # 51 / 255 = 0.2
    want = np.broadcast_to([(0.2 - 0.5) / 0.5, (0.2 - 0.4) / 0.25, (0.2 - 0.3) / 0.2], (1, 2, 16, 16, 3))
    frames = train(batch, OFF)[0]
    assert frames.dtype == np.float32
    np.testing.assert_allclose(frames, want, atol=1e-5)
    np.testing.assert_allclose(evaluate(batch), want, atol=1e-5)


def test_each_clip_is_standardized_by_itself():
    rng = np.random.default_rng(1)
    dark = rng.integers(0, 20, (3, 2, 24, 32, 3), dtype=np.uint8)
    dark[2] = 7  # one colour
    batch = make_batch(3, frames=dark)
    frames, bright = (
        train(given, OFF, normalization=STANDARDIZED)[0] for given in (batch, {**batch, "frames": 10 * dark + 30})
    )
    np.testing.assert_allclose(frames[:2].mean((1, 2, 3, 4)), 0, atol=1e-5)
    np.testing.assert_allclose(frames[:2].std((1, 2, 3, 4)), 1, rtol=1e-5)
    np.testing.assert_allclose(frames[2], 0, atol=1e-5)
    np.testing.assert_allclose(bright, frames, atol=1e-4)
    np.testing.assert_allclose(evaluate(batch, normalization=STANDARDIZED), frames, atol=1e-5)


def test_everything_off_equals_evaluation_and_costs_as_much():
    batch = make_batch()
    np.testing.assert_allclose(train(batch, OFF)[0], evaluate(batch), atol=1e-5)
    evaluation = {"size_px": 16, "clips": 1, "crops": 1, "normalization": NORMALIZATION}
    both = (train_fn(OFF), functools.partial(model_input.evaluate, **evaluation))
    flops = [jax.jit(f).lower(batch).compile().cost_analysis()["flops"] for f in both]
    assert flops[0] < 1.01 * flops[1]


def test_targets():
    batch = make_batch(4, label=np.int32([0, 4, 2, 2]))
    np.testing.assert_array_equal(train(batch, OFF)[1], np.eye(5, dtype=np.float32)[[0, 4, 2, 2]])
    smooth = train(batch, OFF, label_smoothing=0.1)[1]
    np.testing.assert_allclose(smooth[1], [0.02, 0.02, 0.02, 0.02, 0.92], atol=1e-6)


def test_target_mass_is_one():
    batch = make_batch(16, weight=np.float32([1] * 15 + [0]))
    frames, targets = train(batch, ALL_ON)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-5)
    assert np.all(targets >= 0) and np.all(np.isfinite(frames))


# Every key does something, and only it

SWITCHES = {  # key -> (what must be on, one value, another value)
    "flip": ({}, False, True),
    "opposites": ({"flip": "swap"}, "", "a/v, b/w, c/x, d/y, e/z"),  # then no class is mirrored
    "crop": ({}, "none", "area"),
    "crop_range": ({"crop": "scale"}, (1.0, 1.2), (1.5, 2.0)),
    "crop_aspect": ({"crop": "area"}, (1.0, 1.1), (1.2, 1.3)),
    "color_prob": ({}, 0.0, 1.0),
    "color_strength": ({"color_prob": 1.0}, 0.0, 0.4),
    "randaugment_layers": ({}, 0, 1),
    "randaugment_magnitude": ({"randaugment_layers": 1}, 5, 25),
    "mixup_alpha": ({}, 0.0, 1.0),
    "cutmix_alpha": ({}, 0.0, 1.0),
    "erase_prob": ({}, 0.0, 1.0),
}


@pytest.mark.parametrize("key", common.augment())
def test_every_key_changes_the_output(key):
    needs, one, other = SWITCHES[key]
    batch = make_batch()
    frames = [train(batch, {**OFF, **needs, key: value})[0] for value in (one, other)]
    assert np.abs(frames[0] - frames[1]).max() > 0.05


@pytest.mark.parametrize(("key", "value"), [
    ("color_strength", 0.9), ("randaugment_magnitude", 29), ("crop_range", (0.1, 0.2)), ("crop_aspect", (2.0, 3.0)),
])  # fmt: skip
def test_a_key_that_is_off_does_nothing(key, value):
    batch = make_batch()
    np.testing.assert_array_equal(train(batch, OFF)[0], train(batch, {**OFF, key: value})[0])


def test_draws_are_independent():
    """Switching erasing on leaves crop and flip as they were: what is not erased is unchanged."""
    batch = make_batch()
    plain, erased = (train(batch, options)[0] for options in ({}, {"erase_prob": 1.0}))
    same = np.all(np.abs(plain - erased) < 1e-5, axis=-1)
    assert 0.6 < same.mean() < 0.98


def test_label_touches_no_pixel():
    batch = make_batch()
    other = {**batch, "label": batch["label"][::-1].copy()}
    np.testing.assert_array_equal(train(batch, {})[0], train(other, {})[0])


def test_frames_of_a_clip_go_through_the_same():
    batch = make_batch()
    batch["frames"][:, 1] = batch["frames"][:, 0]
    frames = train(batch, ALL_ON)[0]
    np.testing.assert_allclose(frames[:, 0], frames[:, 1], atol=1e-5)


# Mirroring


def mirrored(batch, **options):
    """Which examples were mirrored, by their pixels, and all that training got."""
    out = train_all(batch, {**OFF, **options}, class_names=SIDES, normalization=model_input.LEVELS)
    plain = train(batch, OFF, normalization=model_input.LEVELS)[0]
    flipped = np.all(np.abs(out["frames"] - plain[:, :, :, ::-1]) < 1e-3, axis=(1, 2, 3, 4))
    np.testing.assert_allclose(out["frames"][~flipped], plain[~flipped], atol=1e-3)
    return flipped, out


def test_classes_that_name_a_side_swap_when_mirrored():
    """By turns of SIDES: "turn left" and "turn right" swap, "left hook" stays as it is, the others keep their label."""
    batch = make_batch(200)
    flipped, out = mirrored(batch, flip=True)
    share = [flipped[batch["label"] == label].mean() for label in range(5)]
    assert share[3] == 0 and all(0.25 < share[label] < 0.75 for label in (0, 1, 2, 4))
    want = np.where(flipped, np.array([0, 2, 1, -1, 4])[batch["label"]], batch["label"])
    np.testing.assert_array_equal(out["answers"], want)
    np.testing.assert_array_equal(out["targets"], np.eye(5)[want])


def test_without_flip_no_label_changes():
    batch = make_batch(40)
    flipped, out = mirrored(batch)
    assert not flipped.any()
    np.testing.assert_array_equal(out["answers"], batch["label"])


def test_flips_of_any_class_may_keep_its_label():
    batch = make_batch(200)
    flipped, out = mirrored(batch, flip="always")
    assert all(0.25 < flipped[batch["label"] == label].mean() < 0.75 for label in range(5))
    np.testing.assert_array_equal(out["answers"], batch["label"])


def test_true_and_false_are_the_modes_that_they_were():
    batch = make_batch(40)
    for before, mode in ((True, "swap"), (False, "never")):
        old, new = (mirrored(batch, flip=value)[1] for value in (before, mode))
        np.testing.assert_array_equal(old["answers"], new["answers"])
        np.testing.assert_array_equal(old["frames"], new["frames"])


def test_further_words_for_sides_swap_classes():
    batch = make_batch(200)
    names = ("to the bow", "to the stern", *SIDES[2:])
    out = train_all(batch, {**OFF, "flip": "swap", "opposites": "bow/stern"}, class_names=names)
    swapped = out["answers"] != batch["label"]
    assert set(batch["label"][swapped]) == {0, 1} and set(out["answers"][swapped]) == {0, 1}


def test_an_unknown_class_is_not_mirrored():
    """-1 stands for a label that is not published; the last class must not be taken for it."""
    batch = make_batch(40, label=np.int32([-1, 9] * 20))
    flipped, out = mirrored(batch, flip=True)
    assert not flipped.any()
    np.testing.assert_array_equal(out["answers"], batch["label"])


def test_names_of_sides_leave_the_other_draws_alone():
    """Classes are mirrored or not by the same draw, whatever their names: only "left hook" (3) differs."""
    batch = make_batch(40)
    named, plain = (train_all(batch, {}, class_names=names)["frames"] for names in (SIDES, CLASS_NAMES))
    same = np.all(named == plain, axis=(1, 2, 3, 4))
    assert same[batch["label"] != 3].all() and not same[batch["label"] == 3].all()


# Determinism


def test_same_seed_same_result_anywhere():
    """At another place, in a batch of another size: equal to the last bits, which a product's blocking may change."""
    batch = make_batch()
    order = np.int32([5, 4, 1, 0])  # partners stay together, too
    part = {key: value[order] for key, value in batch.items()}
    for whole, some in zip(train(batch, ALL_ON), train(part, ALL_ON), strict=True):
        np.testing.assert_allclose(whole[order], some, atol=1e-4)


def test_another_seed_another_result():
    batch = make_batch(frames=np.repeat(make_batch(1)["frames"], 8, axis=0))
    frames = train(batch, {})[0]
    assert len({clip.tobytes() for clip in frames}) == 8
    again = {**batch, "seed": np.full(8, batch["seed"][0])}
    assert len({clip.tobytes() for clip in train(again, {})[0]}) == 1


def test_draws_are_frozen():
    """A resumed run must go on with the same draws: these values change only with the project's version."""
    box = crop.draw_crop_box(model_input._streams(jnp.uint32(2**32 - 3))["crop"], jnp.array([240, 320]), augment())
    np.testing.assert_allclose(box, [3.949841, 34.9399, 204.05544, 268.6237], rtol=1e-4)


# Mixing


def two_colours(size=64):
    """Even examples black, odd ones white, one class each: the frames' mean says how much is whose."""
    frames = np.zeros((size, 1, 24, 24, 3), np.uint8)
    frames[1::2] = 255
    return make_batch(size, frames=frames, size_px=np.full((size, 2), 24, np.int32), label=np.arange(size) % 2)


@pytest.mark.parametrize("options", [
    {"mixup_alpha": 0.8}, {"cutmix_alpha": 1.0}, {"mixup_alpha": 0.8, "cutmix_alpha": 1.0},
])  # fmt: skip
def test_targets_are_mixed_exactly_as_the_frames(options):
    frames, targets = train(two_colours(), {**OFF, **options}, normalization=model_input.SHARES)
    white = frames.mean(axis=(1, 2, 3, 4))
    np.testing.assert_allclose(targets[:, 1], white, atol=1e-5)
    np.testing.assert_allclose(targets[:, 0], 1 - white, atol=1e-5)
    assert 0.3 < np.std(np.abs(white - np.arange(64) % 2)) * 2 < 0.9  # shares differ from example to example
    boxes = np.mean([len(np.unique(clip.round(4))) == 2 for clip in frames])  # both colours, nothing between them
    expected = {1: (0.0, 0.0) if "mixup_alpha" in options else (0.9, 1.0), 2: (0.3, 0.7)}[len(options)]
    assert expected[0] <= boxes <= expected[1]


def test_cutmix_is_one_rectangle_in_all_frames():
    batch = two_colours()
    batch["frames"] = np.repeat(batch["frames"], 3, axis=1)
    frames, _ = train(batch, {**OFF, "cutmix_alpha": 1.0}, normalization=model_input.SHARES)
    given = np.abs(frames[0::2, ..., 0]) > 0.5
    np.testing.assert_array_equal(given, np.repeat(given[:, :1], 3, axis=1))
    rows, columns = given[:, 0].any(2).sum(1), given[:, 0].any(1).sum(1)
    np.testing.assert_array_equal(given[:, 0].sum((1, 2)), rows * columns)


def test_an_example_without_weight_reaches_no_other():
    weight = np.float32([1, 0, 1, 1, 0, 1, 1, 1])
    batch = make_batch(weight=weight)
    other = {**batch, "frames": batch["frames"].copy(), "size_px": batch["size_px"].copy()}
    other["frames"][weight == 0] = 0
    other["size_px"][weight == 0] = 0  # as it is for an undecodable one
    for options in ({"mixup_alpha": 0.8}, {"cutmix_alpha": 1.0}, ALL_ON):
        (frames, targets), (frames_2, targets_2) = train(batch, options), train(other, options)
        np.testing.assert_array_equal(frames[weight > 0], frames_2[weight > 0])
        np.testing.assert_array_equal(targets[weight > 0], targets_2[weight > 0])
        assert np.all(np.isfinite(frames_2))
    plain, mixed = train(batch, OFF), train(batch, {**OFF, "mixup_alpha": 0.8})
    for alone in (0, 5):
        np.testing.assert_allclose(plain[0][alone], mixed[0][alone], atol=1e-6)
        np.testing.assert_array_equal(plain[1][alone], mixed[1][alone])


def test_odd_batch_cannot_be_mixed():
    with pytest.raises(ValueError, match="batch_size=3"):
        jax.eval_shape(train_fn({"mixup_alpha": 0.8}), make_batch(3))
    with pytest.raises(ValueError, match="batch_size=6: .* a multiple of 4"):
        jax.eval_shape(train_fn({"mixup_alpha": 0.8}, repeats=2), make_batch(6))


@pytest.mark.parametrize("repeats", [2, 3])
def test_repeats_are_mixed_with_another_example(repeats):
    """Rows of one example have one label: each target has two, its own and that of the neighbouring example."""
    label = np.repeat(np.int32([0, 1, 2, 3]), repeats)
    _, targets = train(make_batch(4 * repeats, label=label), {**OFF, "mixup_alpha": 1.0}, repeats=repeats)
    pairs = targets[:, [0, 2]] + targets[:, [1, 3]]
    np.testing.assert_allclose(pairs, np.eye(2)[label // 2], atol=1e-5)
    assert np.sum(targets > 1e-4) == 2 * 4 * repeats


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_shares_are_beta_distributed(alpha):
    shares = np.asarray(model_input._beta(np.random.default_rng(0).random(4000), alpha))
    assert scipy.stats.kstest(shares, scipy.stats.beta(alpha, alpha).cdf).pvalue > 0.01


# Evaluation


@pytest.mark.parametrize(("crops", "lefts"), [(1, [4]), (3, [0, 4, 8])])
def test_views_along_the_width(crops, lefts):
    batch = make_batch(2, num_frames=4, canvas=(20, 30), true=(16, 24))
    got = evaluate(batch, clips=2, crops=crops, normalization=model_input.LEVELS)
    frames = batch["frames"]
    want = [
        frames[b, clip : clip + 2, :16, left : left + 16] for b in range(2) for clip in (0, 2) for left in lefts
    ]  # an example's views stand together, clip after clip
    np.testing.assert_allclose(got, np.stack(want), atol=1e-3)


def test_views_along_the_height():
    batch = make_batch(1, canvas=(30, 20), true=(24, 16))
    got = evaluate(batch, crops=3, normalization=model_input.LEVELS)
    want = [batch["frames"][0, :, top : top + 16, :16] for top in (0, 4, 8)]
    np.testing.assert_allclose(got, np.stack(want), atol=1e-3)


def test_clips_must_divide_the_frames():
    with pytest.raises(ValueError, match="eval_clips=3: 4 frames"):
        evaluate(make_batch(1, num_frames=4), clips=3)


# Many devices


@pytest.fixture(scope="module")
def split_batch():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec("data"))


def no_collectives(compiled) -> bool:
    return not re.search(r"all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter", compiled.as_text())


def test_split_over_devices_equals_one_and_stays_local(split_batch):
    batch = make_batch(16)
    compiled = jax.jit(train_fn(ALL_ON), in_shardings=split_batch).lower(batch).compile()
    assert no_collectives(compiled)
    split = compiled(jax.device_put(batch, split_batch))
    for key, one in train_all(batch, ALL_ON).items():
        eight = split[key]
        assert eight.sharding.is_equivalent_to(split_batch, eight.ndim)
        np.testing.assert_allclose(one, eight, atol=1e-4)


@pytest.mark.parametrize("repeats", [1, 2])
def test_one_example_per_device_is_exchanged_with_the_neighbour_alone(split_batch, repeats):
    batch, mixup = make_batch(8 * repeats), {**OFF, "mixup_alpha": 0.8}
    compiled = jax.jit(train_fn(mixup, repeats=repeats), in_shardings=split_batch).lower(batch).compile()
    assert not re.search(r"all-gather|all-to-all|all-reduce|reduce-scatter", compiled.as_text())
    assert "collective-permute" in compiled.as_text()
    split = compiled(jax.device_put(batch, split_batch))
    for key, one in train_all(batch, mixup, repeats=repeats).items():
        np.testing.assert_allclose(one, split[key], atol=1e-4)


def test_evaluation_stays_local(split_batch):
    views = functools.partial(model_input.evaluate, size_px=16, clips=2, crops=3, normalization=NORMALIZATION)
    assert no_collectives(jax.jit(views, in_shardings=split_batch).lower(make_batch(8)).compile())
