import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines.stream import records
from data_pipelines.stream.host_tf import tf


def _shards(data_dir):
    return sorted(path for path in pathlib.Path(data_dir).glob("numbered/1.0.0/*.tfrecord*") if path.suffix != ".npy")


def test_offsets_are_those_of_the_records(make_numbered):
    data_dir = make_numbered(num_shards=3)
    split = records.open_split("numbered", "train", data_dir)
    assert split.num_examples == 97 and len(split.paths) == 3
    in_order = [record.numpy() for path in split.paths for record in tf.data.TFRecordDataset(path)]
    locate = records.locator(split)
    for i in (0, 1, 40, 96):
        read = tf.data.Dataset.from_tensors(np.int64(i)).flat_map(lambda index: records.read_from(*locate(index)))
        assert next(read.as_numpy_iterator()) == in_order[i]
    assert split.class_names == tuple("abcde")
    assert split.modality == "video"


def test_a_split_can_be_a_slice(make_numbered):
    data_dir = make_numbered(num_shards=3)
    whole = records.open_split("numbered", "train", data_dir)
    part = records.open_split("numbered", "train[20:60]", data_dir)
    places = [(whole.paths[shard], offset) for shard, offset in zip(whole.shards, whole.offsets, strict=True)]
    assert [(part.paths[s], o) for s, o in zip(part.shards, part.offsets, strict=True)] == places[20:60]


@pytest.mark.parametrize("split", ["test", "test[:10]", "train+test"])
def test_an_unknown_split_is_refused_with_those_that_exist(numbered, split):
    with pytest.raises(ValueError, match=r"has no split .*test.*; it has train"):
        records.open_split("numbered", split, str(pathlib.Path(numbered.paths[0]).parents[2]))


def test_a_lost_index_is_made_again_and_a_stale_one_replaced(make_numbered):
    data_dir = make_numbered()
    before = records.open_split("numbered", "train", data_dir)
    first, second, _ = [path.with_name(path.name + records.INDEX_SUFFIX) for path in _shards(data_dir)]
    saved = first.read_bytes()
    first.unlink()
    np.save(second, np.array([0, 5]))
    after = records.open_split("numbered", "train", data_dir)
    assert (before.offsets == after.offsets).all()
    assert first.read_bytes() == saved
    assert before.fingerprint == after.fingerprint


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "metadata.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff"], ids=["empty", "{}", "list", "no text"])
def test_a_damaged_description_is_refused_by_name_or_says_the_same(make_numbered, name, content):
    data_dir = make_numbered(num_shards=1)
    where = pathlib.Path(data_dir) / "numbered" / "1.0.0"
    (where / name).write_bytes(content)
    try:
        opened = records.open_split("numbered", "train", data_dir)
    except ValueError as error:  # DamagedFileError, or an empty description that has no such split
        assert str(where) in str(error) or "has no split" in str(error)
    else:
        assert opened.num_examples == 97


def test_a_missing_shard_is_refused_by_name(make_numbered):
    data_dir = make_numbered()
    shard = _shards(data_dir)[1]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"shard {shard} is missing"):
        records.open_split("numbered", "train", data_dir)


def test_a_short_shard_is_refused_by_name(make_numbered):
    data_dir = make_numbered()
    shard = _shards(data_dir)[1]
    content, index = shard.read_bytes(), np.load(f"{shard}{records.INDEX_SUFFIX}")
    for size in (index[-1] - 1, index[3] + 5, 3):  # inside data, inside a header
        shard.write_bytes(content[:size])
        with pytest.raises(OSError, match=f"shard {shard} is cut off"):
            records.open_split("numbered", "train", data_dir)
    for size in (index[3], 0):  # between two records
        shard.write_bytes(content[:size])
        with pytest.raises(OSError, match=rf"shard {shard} has \d records instead of \d+"):
            records.open_split("numbered", "train", data_dir)


def test_a_damaged_length_is_refused_when_the_index_is_made(make_numbered):
    data_dir = make_numbered()
    shard = _shards(data_dir)[0]
    content = bytearray(shard.read_bytes())
    content[1] ^= 1
    shard.write_bytes(content)
    pathlib.Path(f"{shard}{records.INDEX_SUFFIX}").unlink()
    with pytest.raises(OSError, match=f"shard {shard} is corrupt: wrong checksum of the length at byte 0"):
        records.open_split("numbered", "train", data_dir)


def test_the_fingerprint_tells_datasets_apart(digits_dir, numbered):
    splits = [
        records.open_split(f"digits/{c}", s, digits_dir) for c in ("motion", "images") for s in ("train", "validation")
    ]
    assert len({split.fingerprint for split in [*splits, numbered]}) == 5
    again = records.open_split("digits/motion", "train", digits_dir)
    assert again.fingerprint == splits[0].fingerprint


class Foreign(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """As TFDS's own image datasets are: one feature `image`, no metadata."""

    name = "foreign"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({"image": image, "label": tfds.features.ClassLabel(num_classes=3)}),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(6):
            yield i, {"image": np.full((5, 7, 3), 40 * i, np.uint8), "label": i % 3}


def test_datasets_of_others_are_read_by_the_name_of_their_feature(tmp_path, dataset):
    from data_pipelines.stream import pipeline

    config = tfds.download.DownloadConfig(try_download_gcs=False)
    Foreign(data_dir=str(tmp_path)).download_and_prepare(download_config=config, file_format="tfrecord")
    split = records.open_split("foreign", "train", str(tmp_path))
    assert split.modality == "image"
    assert split.class_names == ("0", "1", "2")
    dataset.num_frames, dataset.frames_feature, dataset.eval_batch_size = 1, "image", 6
    with pipeline.eval_stream(split, dataset) as stream:
        batch = next(stream)
    assert sorted(batch["frames"][:, 0, 2, 2, 0] // 38) == list(range(6))
    assert batch["weight"].all() and batch["size_px"].tolist() == [[5, 7]] * 6


def test_other_formats_are_refused(tmp_path):
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    Foreign(data_dir=str(tmp_path)).download_and_prepare(download_config=config, file_format="tfrecord")
    described = tmp_path / "foreign" / "1.0.0" / "dataset_info.json"
    described.write_text(described.read_text().replace('"tfrecord"', '"riegeli"'))
    with pytest.raises(ValueError, match="is stored as riegeli; prepare it as tfrecord"):
        records.open_split("foreign", "train", str(tmp_path))
