"""UCF101 for a study of co-training: clips, their single frames, and a motion set, all in the order of the groups.

- `clips`: two clips of each group of each class, labelled by the action.
- `frames`: four frames of each of these clips, as images with the same labels.
- `motion`: short parts of these clips, labelled by how they are played: forward, backward or shuffled, at two speeds.
  The three orders show the same frames. So a model that ignores the order can tell the speed only: 1/3 of the labels.

A group is one scene with the same people. Groups 1 to 7 are validation, as in UCF101's first list; the others are
training. Records are not shuffled: a slice of a split has whole groups, and no group of the rest. Every group has the
same number of records, one after another.
"""

import dataclasses
import functools
import itertools
import os
import re
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from data_pipelines import files
from data_pipelines.media import media_file
from data_pipelines.media.media_file import Media
from data_pipelines.prepare import publisher, schema

SEED = 0
SHORT_SIDE_PX = 64  # a study on a CPU sees 32 to 56 px
FPS = 12.5  # half of most files
VALIDATION_GROUPS = 7  # testlist01.txt of UCF101TrainTestSplits-RecognitionTask.zip has groups 1 to 7
CLIPS_PER_GROUP = 2  # of each class; each group has at least four
FRAMES_PER_CLIP = 4
MOTION_FRAMES = 8
PARTS_PER_CLIP = 2  # of `motion`, at each speed
SPEEDS = {"slow": 1, "fast": 3}  # stored frames from one frame of a part to the next
ORDERS = ("forward", "backward", "shuffled")


@dataclasses.dataclass(frozen=True)
class Clip:
    """One clip of the source folder: its path there, class, and numbers of its group and of itself."""

    path: str
    label: str
    group: int
    number: int


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  # TFDS's
    """UCF101 in the order of its groups; see the module."""

    name = "ucf101_groups"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("clips", "frames", "motion")]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "v_CLASS_gGG_cCC.avi or .mp4 of UCF101, in any folders"
    SELF_CONTAINED = False

    def _info(self):
        modality = "image" if self.builder_config.name == "frames" else "video"
        return schema.info(self, None, modality, "UCF101 in the order of its groups.", in_order=True)

    def _split_generators(self, dl_manager):
        source = epath.Path(dl_manager.manual_dir)
        found = find(source)
        motions = [f"{order}_{speed}" for order, speed in itertools.product(ORDERS, SPEEDS)]
        is_motion = self.builder_config.name == "motion"
        self.info.features["label"].names = motions if is_motion else sorted({clip.label for clip in found})
        splits = {
            "train": [clip for clip in found if clip.group > VALIDATION_GROUPS],
            "validation": [clip for clip in found if clip.group <= VALIDATION_GROUPS],
        }
        return {split: self._generate_examples(clips, source) for split, clips in splits.items()}

    def _generate_examples(self, clips, source):
        make = {"clips": whole, "frames": frames_of, "motion": motions_of}[self.builder_config.name]
        examples = itertools.chain.from_iterable(make(clip, _read(source / clip.path)) for clip in clips)
        yield from enumerate(examples)


def find(source: epath.Path) -> list[Clip]:
    """The first clips of each group of each class, in the order of groups, classes and clips.

    Raises:
        ValueError: the folder has no clips of UCF101, or two of one name, or a group lacks clips of a class.
    """
    found: dict[tuple[int, str], list[Clip]] = {}
    for name, path in publisher.videos(files.walk(source)):
        if match := re.fullmatch(r"v_(?P<label>\w+)_g(?P<group>\d+)_c(?P<number>\d+)", name):
            clip = Clip(path, match["label"], int(match["group"]), int(match["number"]))
            found.setdefault((clip.group, clip.label), []).append(clip)
    if not found:
        raise ValueError(f"{source}: has no clips named v_CLASS_gGG_cCC, as UCF101's are")
    groups, labels = sorted({group for group, _ in found}), sorted({label for _, label in found})
    for group, label in itertools.product(groups, labels):
        clips = found.get((group, label), [])
        if len({clip.number for clip in clips}) != len(clips) or len(clips) < CLIPS_PER_GROUP:
            raise ValueError(
                f"{source}: has {len(clips)} clips v_{label}_g{group:02d}_cCC; must be at least {CLIPS_PER_GROUP}, "
                "each once"
            )
        found[group, label] = sorted(clips, key=lambda clip: clip.number)[:CLIPS_PER_GROUP]
    return [clip for key in sorted(found) for clip in found[key]]


@functools.cache  # all three datasets are made in one process
def _read(path: epath.Path) -> Media:
    return media_file.read_video(os.fspath(path), SHORT_SIDE_PX, FPS)


def whole(clip: Clip, media: Media) -> Iterator[dict]:
    """The clip as one example."""
    yield _example(clip, media, media.frames, clip.label, media.fps)


def frames_of(clip: Clip, media: Media) -> Iterator[dict]:
    """The middle frames of equal parts of the clip, as one image each."""
    for i in range(FRAMES_PER_CLIP):
        at = (2 * i + 1) * len(media.frames) // (2 * FRAMES_PER_CLIP)
        yield _example(clip, media, [media.frames[at]], clip.label, 0.0, f"#frame={at}")


def motions_of(clip: Clip, media: Media) -> Iterator[dict]:
    """Parts of the clip that start at random, each in all orders. A clip that is too short repeats its last frame."""
    rng = np.random.default_rng([SEED, clip.group, clip.number, *clip.label.encode()])
    for _, (speed, stride) in itertools.product(range(PARTS_PER_CLIP), SPEEDS.items()):
        last = len(media.frames) - 1
        start = int(rng.integers(max(last - stride * (MOTION_FRAMES - 1), 0) + 1))
        at = np.minimum(start + stride * np.arange(MOTION_FRAMES), last)
        for order, which in zip(ORDERS, (at, at[::-1], rng.permutation(at)), strict=True):
            frames, label = [media.frames[i] for i in which], f"{order}_{speed}"
            yield _example(clip, media, frames, label, media.fps / stride, f"#start={start}&as={label}")


def _example(clip: Clip, media: Media, frames: Sequence[bytes], label: str, fps: float, part: str = "") -> dict:
    return schema.example(
        frames=frames,
        label=label,
        source=clip.path + part,
        source_sha256=media.sha256,
        fps=fps,
        num_source_frames=media.num_source_frames,
    )
