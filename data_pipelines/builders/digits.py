"""Moving digits: three small datasets made from scikit-learn's 1,797 real handwritten digits, offline, in seconds.

- `appearance`: videos, labelled by the digit that moves. It drifts, turns and changes its size at random.
- `motion`: videos, labelled by the kind of motion: across the middle of the canvas, of the angles or of the sizes.
  Classes come in pairs that are each other's time reversal. Both show the same frames; only the order differs. Left
  and right, and clockwise and anticlockwise, are also each other's mirror image.
- `images`: single frames, labelled by the digit.

All three datasets use the same division of the digits: no digit image is in both a training and a validation split.
"""

import hashlib
import zlib

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.media.media_file import encode_jpeg
from data_pipelines.prepare import schema

SEED = 0
CANVAS_PX = 16  # two digit widths: room to move, and few enough pixels to train on a CPU
DIGIT_PX = 8  # as scikit-learn has them
NUM_FRAMES = 8  # twice as many as the demo samples, so that frame sampling matters
FPS = 8.0  # a clip lasts one second
VALIDATION_SHARE = 0.2  # of the digit images of each class
CLIPS = {
    "appearance": {"train": 600, "validation": 300},
    "motion": {"train": 2000, "validation": 300},
    "images": {"train": 6000, "validation": 500},
}

# A pose is (y, x, angle, log2 size): offset from the centre of the canvas in pixels, radians anticlockwise, octaves.
DRIFT_RANGE = np.array([CANVAS_PX / 16, CANVAS_PX / 16, np.deg2rad(5), 0.05])  # limits of the random part of a pose
FULL_MOTION = np.array([CANVAS_PX, CANVAS_PX, np.deg2rad(180), 2.0])
TRAVEL = (0.4, 0.8)  # share of a full motion between the first and the last frame of a clip
MOTIONS = {
    "left": (0, -1, 0, 0),
    "right": (0, 1, 0, 0),
    "up": (-1, 0, 0, 0),
    "down": (1, 0, 0, 0),
    "clockwise": (0, 0, -1, 0),
    "anticlockwise": (0, 0, 1, 0),
    "grow": (0, 0, 0, 1),
    "shrink": (0, 0, 0, -1),
}
DIGIT_NAMES = tuple(str(digit) for digit in range(10))


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  # TFDS's
    """Moving digits; see the module."""

    name = "digits"
    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in CLIPS]
    SELF_CONTAINED = True

    def _info(self):
        names = tuple(MOTIONS) if self.builder_config.name == "motion" else DIGIT_NAMES
        modality = "image" if self.builder_config.name == "images" else "video"
        return schema.info(self, names, modality, "Moving digits, from scikit-learn's handwritten ones.")

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in CLIPS[self.builder_config.name]}

    def _generate_examples(self, split):
        config = self.builder_config.name
        rng = np.random.default_rng([SEED, zlib.crc32(f"{config}/{split}".encode())])
        images, labels = digit_images(split)
        for i in range(CLIPS[config][split]):
            chosen = rng.integers(len(images))
            label, poses = draw(config, i, labels[chosen], rng)
            yield (
                f"{i:06d}",
                schema.example(
                    frames=[encode_jpeg(frame) for frame in render(images[chosen], poses)],
                    label=label,
                    source=f"a {labels[chosen]}: {label}",
                    source_sha256=hashlib.sha256(images[chosen].tobytes()).hexdigest(),
                    fps=FPS if len(poses) > 1 else 0.0,
                    num_source_frames=len(poses),
                ),
            )


def digit_images(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The digit images of one split: intensities 0..1, float64 [N, 8, 8], and their digits, int64 [N]."""
    from sklearn.datasets import load_digits  # takes a second to import, so only when digits are made

    images, labels = load_digits(return_X_y=True)
    held_out = np.zeros(len(labels), bool)
    rng = np.random.default_rng(SEED)
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(labels == digit))
        held_out[members[: round(len(members) * VALIDATION_SHARE)]] = True
    keep = held_out if split == "validation" else ~held_out
    return images[keep].reshape(-1, DIGIT_PX, DIGIT_PX) / 16, labels[keep]


def draw(config: str, i: int, digit: int, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """The class name of clip number i of a dataset, and its poses [T, 4]."""
    if config == "motion":
        name = list(MOTIONS)[i % len(MOTIONS)]
        return name, moving_poses(name, rng)
    return DIGIT_NAMES[digit], drifting_poses(1 if config == "images" else NUM_FRAMES, rng)


def moving_poses(name: str, rng: np.random.Generator) -> np.ndarray:
    """Poses [T, 4] of one motion at constant speed. The pose at half of the time is drawn at random."""
    middle = rng.uniform(-DRIFT_RANGE, DRIFT_RANGE)
    travel = rng.uniform(*TRAVEL) * FULL_MOTION * MOTIONS[name]
    return middle + np.linspace(-0.5, 0.5, NUM_FRAMES)[:, None] * travel


def drifting_poses(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Poses [T, 4] on the straight line between two random ones."""
    first, last = rng.uniform(-DRIFT_RANGE, DRIFT_RANGE, size=(2, len(DRIFT_RANGE)))
    return first + np.linspace(0, 1, num_frames)[:, None] * (last - first)


def render(digit: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """Draws a digit [8, 8] at each of the poses [T, 4], white on black, cropped to the canvas: uint8 [T, H, W, 3]."""
    y, x, angle, octaves = poses.T[:, :, None, None]
    rows, cols = np.mgrid[:CANVAS_PX, :CANVAS_PX] + (1 - CANVAS_PX) / 2
    rows, cols = rows - y, cols - x
    cos, sin = np.cos(angle) / 2**octaves, np.sin(angle) / 2**octaves
    centre = (DIGIT_PX - 1) / 2
    intensity = _bilinear(digit, cos * rows + sin * cols + centre, cos * cols - sin * rows + centre)
    grey = np.round(255 * intensity).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _bilinear(image: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Values of a digit at fractional positions; 0 outside of it."""
    padded = np.pad(image, 1)
    rows, cols = (np.clip(at + 1, 0, DIGIT_PX + 1 - 1e-9) for at in (rows, cols))
    top, left = rows.astype(int), cols.astype(int)
    down, right = rows - top, cols - left
    upper = padded[top, left] * (1 - right) + padded[top, left + 1] * right
    lower = padded[top + 1, left] * (1 - right) + padded[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down
