"""The benchmark's clips in this project's format."""

import types

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.prepare import build, schema
from data_pipelines.stream import records


def write(data_dir: str, name: str, examples: list[dict]) -> records.Split:
    """A prepared dataset with these records (`schema.example`'s arguments), opened."""

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            media = "video" if isinstance(examples[0]["frames"], bytes) else "frames"
            return schema.info(self, ["a", "b"], "video", "Clips of a benchmark.", media)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, example in enumerate(examples):
                yield str(i), schema.example(label=i % 2, source=str(i), source_sha256="", **example)

    Builder.name = name
    build.build_records(Builder(data_dir=data_dir))
    return records.open_split(name, "train", data_dir)


def config(num_frames: int, sample_fps: float, canvas_px: tuple[int, int], batch_size: int) -> types.SimpleNamespace:
    """A dataset's entry in the config, as far as the input reads it."""
    return types.SimpleNamespace(
        frames_feature="frames", num_frames=num_frames, sample_fps=sample_fps, canvas_px=canvas_px,
        batch_size=batch_size, repeats=1, shuffle_frames=False,
    )  # fmt: skip


def num_bytes(batch: dict) -> int:
    return sum(np.asarray(value).nbytes for value in batch.values())
