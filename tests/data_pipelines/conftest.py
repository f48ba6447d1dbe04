"""Small prepared datasets, made once for all tests of this folder."""

import types

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines.builders import digits
from data_pipelines.media import media_file
from data_pipelines.prepare import build, schema
from data_pipelines.stream import records

NUM_RECORDS = 97  # prime: no batch size divides it
NUM_STORED = 12
STORED_FPS = 6.0


class Numbered(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """97 clips; frame j of clip i is 6 x 10 px, grey of level 2i + 5j: both can be read off the decoded frame."""

    name = "numbered"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return schema.info(self, list("abcde"), "video", "Numbered frames.")

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(NUM_RECORDS):
            frames = [np.full((6, 10, 3), 2 * i + 5 * j, np.uint8) for j in range(NUM_STORED)]
            jpegs = [media_file.encode_jpeg(frame) for frame in frames]
            yield f"{i:04d}", schema.example(jpegs, i % 5, str(i), "", STORED_FPS, NUM_STORED)


@pytest.fixture
def make_numbered(tmp_path):
    """Makes a fresh copy of the numbered dataset, to be damaged, and returns its data_dir."""

    def make(num_shards: int = 3) -> str:
        builder = Numbered(data_dir=str(tmp_path))
        config = tfds.download.DownloadConfig(try_download_gcs=False, num_shards=num_shards)
        builder.download_and_prepare(file_format="tfrecord", download_config=config)
        records.write_indices(builder.data_path)
        return str(tmp_path)

    return make


@pytest.fixture(scope="session")
def numbered(tmp_path_factory) -> records.Split:
    """The numbered dataset's only split, in one shard."""
    builder = Numbered(data_dir=str(tmp_path_factory.mktemp("numbered")))
    build.build_records(builder)
    return records.open_split("numbered", "train", builder._data_dir_root)


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory) -> str:
    """A data_dir with all of `digits`, at a twentieth of its size."""
    data_dir = str(tmp_path_factory.mktemp("digits"))
    small = {config: {split: n // 20 for split, n in splits.items()} for config, splits in digits.CLIPS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "CLIPS", small)
        for config in digits.CLIPS:
            build.prepare_if_self_contained(f"digits/{config}", data_dir)
    return data_dir


@pytest.fixture
def dataset():
    """A dataset's entry in the config, for the numbered dataset."""
    return types.SimpleNamespace(
        frames_feature="frames",
        num_frames=4,
        sample_fps=0.0,
        canvas_px=(8, 12),
        batch_size=8,
        repeats=1,
        eval_batch_size=8,
        eval_clips=1,
        shuffle_frames=False,
    )
