"""How many pixels a frame needs for a model: the canvas that holds them, and how much is enlarged in spite of that.

Frames are only shrunk on the host, to the canvas; a box of them is enlarged on the device if the model's square is
larger (`crop.resample`). What is enlarged shows the model no more than was stored, for the cost of a large square.

# N sampled records
"""

import copy
import dataclasses
import functools
import math
import types
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cover_jax.preprocess import crop

# Shorter side of the frames relative to model.size_px. TimeSformer-HR trains 448 px on sides of 448 to 512
# (facebookresearch/TimeSformer, configs/Kinetics/TimeSformer_divST_16x16_448.yaml).
SPARE = 512 / 448
NOMINAL_ASPECT = 16 / 9  # of a canvas, where no record is known
FITTING_SHARE = 0.9  # of the records are not higher, and as many not wider, than the canvas; this project's choice
MAX_ENLARGEMENT = 1.25  # above it a run warns; this project's choice
_DRAWN_BOXES = 1024  # crops, over all sampled records: always as many, so that one program draws those of all datasets

Sizes = Mapping[str, tuple[np.ndarray, np.ndarray]]  # dataset -> heights and widths [N, 2] to train and to evaluate on


def follows_model(canvas_px) -> bool:
    """Whether a canvas is chosen by `with_canvases`: `config.datasets.NAME.canvas_px` is (0, 0)."""
    return not any(canvas_px)


def needed_short_side_px(size_px: int, augment: ConfigDict) -> int:
    """Shorter side of the frames that a model of `size_px` can use: with the spare rows that crops take.

    A crop of a random zoom ('scale') takes up to the largest zoom.
    """
    zoom = max(SPARE, augment.crop_range[1] if augment.crop == "scale" else 1.0)
    return math.ceil(round(size_px * zoom, 6))


def choose_canvas(sizes_N2: np.ndarray, short_side_px: int) -> tuple[int, int]:
    """Height and width that hold most frames (FITTING_SHARE) after their shorter side is shrunk to `short_side_px`.

    Without records it holds frames of NOMINAL_ASPECT.
    """
    if not len(sizes_N2):
        return short_side_px, math.ceil(short_side_px * NOMINAL_ASPECT)
    scale_N1 = np.minimum(1.0, short_side_px / sizes_N2.min(axis=1, keepdims=True))
    height_px, width_px = np.quantile(np.round(sizes_N2 * scale_N1), FITTING_SHARE, axis=0, method="higher")
    return int(height_px), int(width_px)


def with_canvases(
    config: ConfigDict, sizes: Sizes, before: Mapping[str, tuple[int, int]] = types.MappingProxyType({})
) -> ConfigDict:
    """The config with a canvas for each dataset whose own follows the model; the others keep theirs.

    Args:
        config: the whole config. It is not changed.
        sizes: from `training.inputs.frame_sizes`; a dataset that it lacks gets a canvas of NOMINAL_ASPECT.
        before: dataset -> the canvas that a run which continues has had so far. It is not chosen again.
    """
    if not any(follows_model(dataset.canvas_px) for dataset in config.datasets.values()):
        return config
    config = copy.deepcopy(config)
    for name, dataset in config.datasets.items():
        if follows_model(dataset.canvas_px):
            short_side_px = needed_short_side_px(config.model.size_px, dataset.augment)
            found = np.concatenate(sizes.get(name, (np.zeros((0, 2)),)))
            dataset.canvas_px = before.get(name) or choose_canvas(found, short_side_px)
    return config


@dataclasses.dataclass(frozen=True)
class Enlargement:
    """How much the frames of a dataset are enlarged for the model: the median over records and crops.

    1 is a stored pixel per pixel of the model; below 1 frames are shrunk.

    Attributes:
        train: in training, with the draws of the config's crop: the side of the model's square divided by the mean side
            (the root of the area) of the box.
        evaluation: in evaluation; None: the dataset is not evaluated.
        remedy: what to do about it; "" up to MAX_ENLARGEMENT.
        canvas_is_too_small: more pixels are stored, but the canvas of the config keeps them from the model.
    """

    train: float
    evaluation: float | None
    remedy: str = ""
    canvas_is_too_small: bool = False

    def line(self, name: str) -> str:
        """One line for the log, a warning where the frames have too few pixels."""
        evaluated = "" if self.evaluation is None else f", {self.evaluation:.3g} in evaluation"
        said = f"{name}: median enlargement {self.train:.3g} in training{evaluated}"
        return f"WARNING: {said}: {self.remedy}" if self.remedy else said


def enlargements(config: ConfigDict, sizes: Sizes, prepared_px: Mapping[str, int | None]) -> dict[str, Enlargement]:
    """Dataset -> its enlargement. A dataset without a readable record is left out.

    Args:
        config: with canvases (`with_canvases`).
        sizes: of the stored frames, from `training.inputs.frame_sizes`.
        prepared_px: dataset -> its --short_side_px; None: stored as the source has it.
    """
    return {
        name: _enlargement(name, config, *sizes[name], prepared_px.get(name))
        for name in config.datasets
        if len(sizes[name][0])
    }


def _enlargement(
    name: str, config: ConfigDict, train_N2: np.ndarray, eval_N2: np.ndarray, prepared_px: int | None
) -> Enlargement:
    dataset, size_px = config.datasets[name], config.model.size_px
    train = _median_of_crops(_on_canvas(train_N2, dataset.canvas_px), dataset.augment, size_px)
    evaluation = None
    if dataset.eval_split and len(eval_N2):
        seen_px = dataset.eval_crop_share * _on_canvas(eval_N2, dataset.canvas_px).min(axis=1)
        evaluation = float(np.median(size_px / seen_px))
    if max(train, evaluation or 0.0) <= MAX_ENLARGEMENT:
        return Enlargement(train, evaluation)
    needed_px = needed_short_side_px(size_px, dataset.augment)
    if _canvas_is_too_small(train_N2, dataset.canvas_px, needed_px):
        canvas = f"config.datasets.{name}.canvas_px={tuple(dataset.canvas_px)}"
        remedy = f"raise {canvas}, to which frames are shrunk, or lower config.model.size_px"
        return Enlargement(train, evaluation, remedy, canvas_is_too_small=True)
    return Enlargement(train, evaluation, _remedy(train_N2, needed_px, prepared_px))


def _on_canvas(sizes_N2: np.ndarray, canvas_px) -> np.ndarray:
    """The sizes after the host has shrunk the frames to the canvas."""
    return sizes_N2 * np.minimum(1.0, np.min(np.array(canvas_px) / sizes_N2, axis=1, keepdims=True))


def _median_of_crops(sizes_N2: np.ndarray, augment: ConfigDict, size_px: int) -> float:
    """The median, over frames of these sizes and draws of the crop, of the model's side by the box's mean side."""
    shapes = np.resize(sizes_N2, (_DRAWN_BOXES, 2)).astype(np.float32)
    ranges = np.float32(augment.crop_range), np.float32(augment.crop_aspect)
    return float(np.median(size_px / np.asarray(_draw_sides(augment.crop, shapes, *ranges))))


@functools.partial(jax.jit, static_argnums=0)
def _draw_sides(kind: str, shapes: jax.Array, crop_range: jax.Array, crop_aspect: jax.Array) -> jax.Array:
    """Mean side of one crop per frame shape: the root of its area. One program for all datasets and ranges."""
    augment = types.SimpleNamespace(crop=kind, crop_range=crop_range, crop_aspect=crop_aspect)
    keys = jax.random.split(jax.random.key(0), len(shapes))
    box = jax.vmap(lambda key, shape: crop.draw_crop_box(key, shape, augment))(keys, shapes)
    return jnp.sqrt(box.height * box.width)


def _canvas_is_too_small(sizes_N2: np.ndarray, canvas_px, needed_px: int) -> bool:
    """Whether the canvas takes pixels that are stored and that the model can use."""
    stored_px = float(np.median(sizes_N2.min(axis=1)))
    return bool(np.median(_on_canvas(sizes_N2, canvas_px).min(axis=1)) < min(stored_px, needed_px) - 1)


def _remedy(sizes_N2: np.ndarray, needed_px: int, prepared_px: int | None) -> str:
    """What to do if the canvas is large enough: the pixels were lost in the preparation, or the source has no more."""
    stored_px = float(np.median(sizes_N2.min(axis=1)))
    lower = "lower config.model.size_px"
    if prepared_px is not None and stored_px >= prepared_px and prepared_px < needed_px:
        return f"prepare again with --short_side_px={needed_px}, or {lower}"
    return f"its frames have no more pixels than a median of {stored_px:.0f} rows or columns: {lower}"
