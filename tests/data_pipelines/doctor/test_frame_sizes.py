"""Sizes of stored frames, from a few records."""

import pathlib

import numpy as np
import pytest
from etils import epath

from data_pipelines.doctor import frame_sizes
from data_pipelines.stream import decode, pipeline, records
from data_pipelines.stream.host_tf import tf
from tests.data_pipelines import clips

SIZES = [(20, 30), (40, 30), (16, 64), (24, 24)]  # height, width


def make_split(folder, media: list[bytes], feature: str = "frames") -> records.Split:
    path = str(folder / "some.tfrecord-00000-of-00001")
    with tf.io.TFRecordWriter(path) as writer:
        for one in media:
            stored = {feature: tf.train.Feature(bytes_list=tf.train.BytesList(value=[one]))}
            writer.write(tf.train.Example(features=tf.train.Features(feature=stored)).SerializeToString())
    shards, offsets = np.zeros(len(media), np.int32), records.scan(epath.Path(path)).offsets[:-1]
    return records.Split("some", "train", (path,), shards, offsets, (), (feature, "label"), "video", "")


def picture(size, encode=tf.io.encode_jpeg) -> bytes:
    return encode(np.zeros((*size, 3), np.uint8)).numpy()


def test_the_sizes_are_those_of_the_records(tmp_path):
    split = make_split(tmp_path, [picture(size) for size in SIZES])
    assert frame_sizes.sample_sizes(split).tolist() == [list(size) for size in SIZES]


def test_a_jpeg_is_not_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "decode_frames", None)
    cut = picture((640, 480))[:700]  # its header is there
    assert frame_sizes.sample_sizes(make_split(tmp_path, [cut])).tolist() == [[640, 480]]


def test_other_pictures_and_damaged_records(tmp_path):
    split = make_split(tmp_path, [picture((9, 7), tf.io.encode_png), b"no picture", picture((8, 6))])
    assert frame_sizes.sample_sizes(split).tolist() == [[9, 7], [8, 6]]
    with open(split.paths[0], "r+b") as file:
        file.seek(split.offsets[2] + 30)
        file.write(b"????")
    assert frame_sizes.sample_sizes(split).tolist() == [[9, 7]]


def test_without_a_readable_record_there_is_no_size(tmp_path):
    assert frame_sizes.sample_sizes(make_split(tmp_path, [b"", b"?"])).shape == (0, 2)


def test_of_many_records_some_are_taken_from_all_of_the_split(tmp_path, monkeypatch):
    monkeypatch.setattr(frame_sizes, "SAMPLED_RECORDS", 3)
    split = make_split(tmp_path, [picture((8 + i, 8)) for i in range(101)])
    assert frame_sizes.sample_sizes(split)[:, 0].tolist() == [8, 58, 108]


def test_of_a_video_file_it_is_the_size_of_its_frames(tmp_path):
    clip = pathlib.Path(clips.write_clip(tmp_path / "a.mp4", num_frames=3)).read_bytes()
    split = make_split(tmp_path, [clip], records.VIDEO_FEATURE)
    assert frame_sizes.sample_sizes(split, "frames").tolist() == [[32, 48]]


@pytest.mark.parametrize("canvas_px", [(0, 0), (0, 8)])
def test_a_canvas_that_nobody_chose_is_refused(numbered, dataset, canvas_px):
    dataset.canvas_px = canvas_px
    with pytest.raises(ValueError, match=r"canvas_px \(0, [08]\): must be greater than 0"):
        pipeline.eval_stream(numbered, dataset)
