"""Turns the host's uint8 Batch into the model's input, on the device.

In training, in this order, each step only if the config enables it:

1. crop, resize and flip: uint8 of any canvas -> float32 [0, 255], size_px x size_px
2. colour jitter, then RandAugment: float32 [0, 255] -> the same
3. normalise: (value / 255 - mean) / std, or with each clip's own mean and deviation
4. erase, on normalised values
5. mixup or cutmix with the neighbour in the batch, for frames and targets

Evaluation has steps 1 and 3, for each view. There is one random draw per clip, the same for all its frames. It depends
only on the example's own `seed`. So an example looks the same at any place in a batch, with any batch size, and on any
number of hosts and devices. Only its mixing partner depends on its place in the batch.

No example needs another one, except its mixing partner. So all of this stays local if a batch is split over devices. If
mixing is on, each device must have an even number of examples, with all their repeats, or only one; then neighbouring
devices exchange their examples.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from einops import rearrange
from ml_collections import ConfigDict

from cover_jax.preprocess import augment as augment_ops
from cover_jax.preprocess import crop, mirrored_labels
from cover_jax.tasks import registry
from cover_jax.tasks.task import Task

# B batch, P pairs, T frames, H height, W width, S side of the model's square, C channels or classes, V spatial views

# Each kind of draw has its own random stream, so enabling one does not change the others. Append, never reorder.
_STREAMS = ("crop", "flip", "color", "randaugment", "erase", "mix")


@dataclasses.dataclass(frozen=True)
class Normalization:
    """How pixel levels 0..255 are normalised.

    Attributes:
        mean: per channel, in units of the 0..1 range.
        std: per channel, in the same units. The normalised value is (level / 255 - mean) / std.
        standardize: instead, bring all values of a clip together to mean 0 and deviation 1, so that its colours keep
            their proportions. A clip of a single grey becomes 0.
    """

    mean: Sequence[float]
    std: Sequence[float]
    standardize: bool = False

    @classmethod
    def of(cls, model: ConfigDict, dataset: ConfigDict) -> "Normalization":
        """As the model and the dataset of a config ask for it."""
        return cls(model.pixel_mean, model.pixel_std, dataset.standardize)


LEVELS = Normalization(mean=(0.0,) * 3, std=(1 / 255,) * 3)  # keeps 0..255
SHARES = Normalization(mean=(0.0,) * 3, std=(1.0,) * 3)  # scales to 0..1, for pictures


@dataclasses.dataclass(frozen=True)
class TrainInput:
    """Settings that turn one dataset's training batches into the model's input.

    Attributes:
        augment: `augment()` of configs/common.py.
        size_px: side of the square that the model sees.
        class_names: in the order of the labels. They decide the class of a mirrored clip (`mirrored_labels`).
        label_smoothing: share of each target that is spread evenly over all classes.
        normalization: of the pixel levels.
        repeats: this many consecutive rows are one example. They are not mixed with each other.
        task: of the dataset's head.
    """

    augment: ConfigDict
    size_px: int
    class_names: Sequence[str]
    label_smoothing: float
    normalization: Normalization
    repeats: int = 1
    task: Task = registry.named(registry.DEFAULT)

    @classmethod
    def of(cls, model: ConfigDict, dataset: ConfigDict, class_names: Sequence[str]) -> "TrainInput":
        """As the model and the dataset of a config ask for it."""
        normalization = Normalization.of(model, dataset)
        smoothing, task = dataset.label_smoothing, registry.of(dataset)
        return cls(dataset.augment, model.size_px, class_names, smoothing, normalization, dataset.repeats, task)


def train(batch: dict[str, jax.Array], settings: TrainInput) -> dict[str, jax.Array]:
    """Prepares one training batch for the model.

    Args:
        batch: a Batch: frames uint8 [B, T, H, W, 3], size_px int32 [B, 2], label, weight and seed [B].
        settings: of its dataset.

    Returns:
        `frames` float32 [B, T, size_px, size_px, 3], normalised; `targets` float32 [B, C] (`Task.targets`); `answers`
        [B, ...], those of the task (`Task.answers`) after mirroring and before mixing.

    Raises:
        ValueError: augment.crop is unknown, or mixing is on and B is not made of pairs.
    """
    augment, size_px, repeats = settings.augment, settings.size_px, settings.repeats
    mixing = augment.mixup_alpha or augment.cutmix_alpha
    if mixing and len(batch["seed"]) % (2 * repeats):
        raise ValueError(
            f"batch_size={len(batch['seed'])}: mixup and cutmix mix pairs, so it must be a multiple of {2 * repeats}"
        )
    streams = jax.vmap(_streams)(batch["seed"])
    flip_B, answers = _flip(streams["flip"], settings.task.answers(batch), settings)

    def one_clip(frames_THWC, shape_px, flip, keys):
        box = crop.draw_crop_box(keys["crop"], shape_px, augment)
        frames_THWC = _recolor(keys, crop.resample(frames_THWC, shape_px, box, size_px, flip), augment)
        frames_THWC = normalize(frames_THWC, settings.normalization)
        return augment_ops.erase(keys["erase"], frames_THWC, augment.erase_prob) if augment.erase_prob else frames_THWC

    frames_BTHWC = jax.vmap(one_clip)(batch["frames"], batch["size_px"], flip_B, streams)
    targets_BC = settings.task.targets(answers, len(settings.class_names), settings.label_smoothing)
    if mixing:
        frames_BTHWC, targets_BC = _mix(streams["mix"], frames_BTHWC, targets_BC, batch["weight"], augment, repeats)
    return {"frames": frames_BTHWC, "targets": targets_BC, "answers": answers}


def evaluate(
    batch: dict[str, jax.Array],
    *,
    size_px: int,
    clips: int,
    crops: int,
    normalization: Normalization,
    crop_share: float = 1.0,
) -> jax.Array:
    """All views of an evaluation batch: squares evenly spaced along the longer side, resized to size_px.

    Args:
        batch: a Batch whose frames are [B, clips * T, H, W, 3], clip after clip.
        size_px: side of the square that the model sees.
        clips: temporal views.
        crops: number of squares from one end to the other; 1: the centre.
        normalization: of the pixel levels.
        crop_share: side of the squares, in units of the shorter side.

    Returns:
        float32 [B * clips * crops, T, size_px, size_px, 3], normalised; the views of an example are consecutive.

    Raises:
        ValueError: the number of frames is not a multiple of `clips`.
    """
    num_frames = batch["frames"].shape[1]
    if num_frames % clips:
        raise ValueError(f"eval_clips={clips}: {num_frames} frames per example do not divide into that many clips")
    places_V = jnp.linspace(0.0, 1.0, crops) if crops > 1 else jnp.array([0.5])

    def one_view(frames_THWC, shape_px, place):
        box = crop.square_box(shape_px, place, crop_share)
        return crop.resample(frames_THWC, shape_px, box, size_px, beyond=crop_share < 1)

    views = jax.vmap(jax.vmap(one_view, (None, None, 0)), (0, 0, None))
    frames_BVTHWC = views(batch["frames"], batch["size_px"], places_V)
    frames_BTHWC = rearrange(frames_BVTHWC, "b v (k t) h w c -> (b k v) t h w c", k=clips)
    return normalize(frames_BTHWC, normalization)


def normalize(frames: jax.Array, normalization: Normalization) -> jax.Array:
    """Normalises pixel levels 0..255, float [..., T, H, W, 3]."""
    if normalization.standardize:
        centred = frames - jnp.mean(frames, (-4, -3, -2, -1), keepdims=True)
        deviation = jnp.sqrt(jnp.mean(centred**2, (-4, -3, -2, -1), keepdims=True))
        return centred / jnp.maximum(deviation, 1.0)  # less than one level is noise
    mean_C, std_C = np.array(normalization.mean, np.float32), np.array(normalization.std, np.float32)
    return frames * (1 / (255 * std_C)) - mean_C / std_C


def _flip(keys_B, answers, settings: TrainInput):
    """Whether to mirror each example (half of those whose classes allow it), and the answers after that."""
    mode = mirrored_labels.flip_mode(settings.augment.flip)
    if mode == "never":
        return jnp.zeros(len(answers), bool), answers
    flip_B = jax.vmap(jax.random.bernoulli)(keys_B)
    if mode == "always":
        return flip_B, answers
    more_opposites = mirrored_labels.opposites(settings.augment.opposites)
    mirrored_C = jnp.array(mirrored_labels.mirrored_labels(settings.class_names, more_opposites))
    return settings.task.mirror(answers, mirrored_C, flip_B)


def _recolor(keys, frames_THWC, augment: ConfigDict):
    if augment.color_prob:
        frames_THWC = augment_ops.color_jitter(keys["color"], frames_THWC, augment.color_prob, augment.color_strength)
    if augment.randaugment_layers:
        layers, magnitude = augment.randaugment_layers, augment.randaugment_magnitude
        frames_THWC = augment_ops.randaugment(keys["randaugment"], frames_THWC, layers, magnitude)
    return frames_THWC


def _mix(keys_B, frames_BTHWC, targets_BC, weight_B, augment: ConfigDict, repeats: int):
    """Mixes neighbouring examples: each gets part of the other, by its own draw, in frames and targets.

    An example whose partner has weight 0 stays unchanged.
    """
    side = frames_BTHWC.shape[2]
    own_BHW = jax.vmap(lambda key: _own_share(key, side, augment.mixup_alpha, augment.cutmix_alpha))(keys_B)
    own_BHW = jnp.where(_partner(weight_B, repeats)[:, None, None] > 0, own_BHW, 1.0)
    own_B = jnp.mean(own_BHW, axis=(1, 2))
    own_BTHWC = own_BHW[:, None, :, :, None]
    return (
        own_BTHWC * frames_BTHWC + (1 - own_BTHWC) * _partner(frames_BTHWC, repeats),
        own_B[:, None] * targets_BC + (1 - own_B[:, None]) * _partner(targets_BC, repeats),
    )


def _partner(x, repeats: int):
    """Swaps neighbouring examples: rows 1, 0, 3, 2, ..., or with two repeats 2, 3, 0, 1, 6, 7, ..."""
    pairs = rearrange(x, "(p two r) ... -> p two r ...", two=2, r=repeats)
    return rearrange(pairs[:, ::-1], "p two r ... -> (p two r) ...")


def _own_share(key, side: int, mixup_alpha: float, cutmix_alpha: float) -> jax.Array:
    """[S, S]: the share of each pixel that an example keeps. The mean is the share of its target that it keeps.

    Mixup (arXiv 1710.09412) keeps the same share of every pixel. Cutmix (arXiv 1905.04899) keeps all or nothing of a
    pixel: its replaced box is completely inside the frame, so the area of the box equals the drawn share. If both are
    on, each is chosen with probability 1/2.
    """
    key_shares, key_box = jax.random.split(key)
    coin, draw_mixup, draw_cutmix = jax.random.uniform(key_shares, (3,))
    if not cutmix_alpha:
        return jnp.full((side, side), _beta(draw_mixup, mixup_alpha))
    given = 1.0 - _beta(draw_cutmix, cutmix_alpha)
    cutmix = 1.0 - crop.inside(crop.random_box(key_box, side, side, (given, given), (1.0, 1.0)), side)
    if not mixup_alpha:
        return cutmix
    return jnp.where(coin < 0.5, jnp.full((side, side), _beta(draw_mixup, mixup_alpha)), cutmix)


def _beta(draw, alpha: float) -> jax.Array:
    """Maps a uniform draw to Beta(alpha, alpha), by its quantiles. `jax.random.beta` uses rejection sampling."""
    grid = np.linspace(0.0, 1.0, 1025)
    quantiles = scipy.special.betaincinv(alpha, alpha, grid)
    return jnp.interp(draw, grid.astype(np.float32), quantiles.astype(np.float32))


def _streams(seed) -> dict[str, jax.Array]:
    """The keys of one example. The generator is fixed, so a seed does not depend on JAX's default generator."""
    key = jax.random.key(seed, impl="threefry2x32")
    return dict(zip(_STREAMS, jax.random.split(key, len(_STREAMS)), strict=True))
