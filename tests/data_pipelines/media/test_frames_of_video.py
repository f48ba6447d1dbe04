"""Frames of stored video files: the same as decoding everything gives, from less of it."""

import io
import types

import av
import numpy as np
import pytest
import tensorflow_datasets as tfds
from av.video.frame import PictureType

from data_pipelines.media import frames_of_video, opening
from data_pipelines.prepare import build, schema
from data_pipelines.stream import pipeline, records

FRAMES, GROUP, FPS = 40, 10, 10


def encode(codec="libx264", container="mp4", **options) -> bytes:
    """40 frames of a moving pattern in groups of 10, with B-frames that others refer to and some that none does."""
    buffer = io.BytesIO()
    rng = np.random.default_rng(0)
    pattern = rng.integers(0, 256, (60, 200, 3), np.uint8)
    options = {"g": str(GROUP), "sc_threshold": "0", "bf": "3", "b-pyramid": "normal", "b_strategy": "0", **options}
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(FRAMES):
            frame = np.ascontiguousarray(pattern[i % 12 : i % 12 + 48, 3 * i : 3 * i + 64])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return buffer.getvalue()


@pytest.fixture(scope="module")
def closed() -> bytes:
    return encode()


@pytest.fixture(scope="module")
def all_frames(closed) -> np.ndarray:
    with av.open(io.BytesIO(closed)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def run(decode, data, wanted):
    with av.open(io.BytesIO(data)) as file:
        return decode(file, file.streams.video[0], wanted, opening.Deadline())


def test_the_clip_has_frames_that_none_refers_to(closed):
    """Else the tests below would try nothing."""
    with av.open(io.BytesIO(closed)) as file:
        kinds = [PictureType(frame.pict_type) for frame in file.decode(video=0)]
    assert kinds.count(PictureType.I) == FRAMES // GROUP and kinds.count(PictureType.B) > FRAMES // 2


@pytest.mark.parametrize("indices", [
    [0], [39], [9, 10], [5], [3, 17, 17, 31], [38, 2, 21], list(range(40)), list(range(1, 40, 3)),
], ids=str)  # fmt: skip
def test_frames_are_those_of_decoding_everything(closed, all_frames, indices):
    found = frames_of_video.frames_at(closed, indices)
    np.testing.assert_array_equal(found, all_frames[indices])
    assert run(frames_of_video._planned, closed, sorted(set(indices))) is not None


class Decoder:
    """Notes what is decoded, and how much of it may be left out."""

    def __init__(self):
        self.skip_frame, self.decoded, self.flushed = "DEFAULT", [], 0

    def decode(self, packet):
        self.decoded.append((packet and packet.pts, self.skip_frame))
        return []

    def flush_buffers(self):
        self.flushed += 1


def test_of_a_group_only_what_the_wanted_frames_need_is_decoded():
    group = [types.SimpleNamespace(pts=pts) for pts in (10, 14, 12, 11, 13, 18, 16)]  # I P B b b P B
    decoder = Decoder()
    assert list(frames_of_video._prefix(decoder, group, {12, 13})) == []
    assert decoder.decoded == [
        (10, "NONREF"), (14, "NONREF"), (12, "DEFAULT"), (11, "NONREF"), (13, "DEFAULT"), (None, "DEFAULT"),
    ]  # fmt: skip
    assert decoder.flushed == 1


def test_of_a_group_without_a_wanted_frame_nothing_is_decoded():
    decoder = Decoder()
    assert list(frames_of_video._prefix(decoder, [types.SimpleNamespace(pts=1)], {2})) == []
    assert decoder.decoded == [] and decoder.flushed == 0


def test_open_groups_are_decoded_whole():
    """The frames before a key frame need the group before it."""
    data = encode(**{"x264-params": "open-gop=1"})
    assert run(frames_of_video._planned, data, [12]) is None
    with av.open(io.BytesIO(data)) as file:
        whole = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    np.testing.assert_array_equal(frames_of_video.frames_at(data, [9, 12, 30]), whole[[9, 12, 30]])


def test_a_format_without_times_is_decoded_whole():
    data = encode("mpeg4", "avi", bf="0")
    assert run(frames_of_video._planned, data, [12]) is None
    assert frames_of_video.frames_at(data, [12, 0]).shape == (2, 48, 64, 3)


def test_what_is_not_there_is_an_error(closed):
    with pytest.raises(IndexError, match="no frame 40"):
        frames_of_video.frames_at(closed, [3, 40])
    with pytest.raises(av.error.InvalidDataError):
        frames_of_video.frames_at(b"no video", [0])


@pytest.mark.parametrize("name", [
    "codecs/ax_bbb_800x640_768kbps_30fps_avc_pyramid_3b.mp4", "codecs/tc_h265_10bits.mp4", "codecs/mv_bbb.webm",
    "codecs/ax_sample_av1.mp4", "codecs/de_video_90.mov", "codecs/ax_sample_without_stss.mp4",
    "codecs/ax_sample-with-large-length.avi", "codecs/wp_vp8.webm",
    "ucf101/BrushingTeeth/v_BrushingTeeth_g01_c01.mp4", "arid/train/Jump/Jump_11_1.mp4",
])  # fmt: skip
def test_real_files_give_the_frames_of_decoding_everything(real_data, name):
    data = (real_data / name).read_bytes()
    with av.open(io.BytesIO(data)) as file:
        total = sum(1 for _ in file.decode(video=0))
    wanted = sorted({0, total // 3, total // 2, total - 1})
    whole = run(frames_of_video._plain, data, wanted)
    np.testing.assert_array_equal(frames_of_video.frames_at(data, wanted), np.stack([whole[index] for index in wanted]))


class Filmed(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Three records with a video file each; the second is damaged."""

    name = "filmed"
    VERSION = tfds.core.Version("1.0.0")
    FILE = b""

    def _info(self):
        return schema.info(self, list("abc"), "video", "Video files.", "video")

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(3):
            file = self.FILE[:200] if i == 1 else self.FILE
            yield str(i), schema.example(file, i, str(i), "", FPS, FRAMES)


def test_records_of_video_files_are_read_like_others(closed, all_frames, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(Filmed, "FILE", closed)
    build.build_records(Filmed(data_dir=str(tmp_path)))
    split = records.open_split("filmed", "train", str(tmp_path))
    dataset.canvas_px, dataset.eval_batch_size, dataset.sample_fps = (50, 80), 3, 2.0
    with pipeline.eval_stream(split, dataset, pipeline.ReadOptions(threads=1)) as stream:
        batch = next(stream)
    good = batch["weight"] > 0
    assert sorted(batch["label"][good]) == [0, 2]  # the damaged one, of class 1, weighs nothing
    assert batch["size_px"][good].tolist() == [[48, 64]] * 2
    for frames in batch["frames"][good]:
        np.testing.assert_array_equal(frames[:, :48, :64], all_frames[[12, 17, 22, 27]])  # every half second of 10 fps
    assert not batch["frames"][~good].any()
