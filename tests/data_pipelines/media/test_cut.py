"""A part of a video: the frames of that time, whatever key frame is before it."""

import av
import numpy as np
import pytest

from data_pipelines.media import frames_of_video, media_file, source_file, video
from data_pipelines.media.source_file import MediaError
from tests.data_pipelines.clips import write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Eight seconds at 12 frames per second; frame i has the level 20 + 2 i, and every twelfth is a key frame."""
    return write_clip(tmp_path_factory.mktemp("cut") / "clip.mp4", level=20, step=2, num_frames=96)


def levels(jpegs):
    return [round((float(np.mean(frame)) - 20) / 2) for frame in jpegs]


@pytest.mark.parametrize(("start_s", "end_s"), [(0.0, 0.5), (1.8, 2.55), (3.0, 3.01), (7.9, 8.4)])
def test_a_part_has_the_frames_of_its_time(clip, start_s, end_s):
    with video.open_video(clip) as opened:
        found = [time for time, _ in opened.frames_between(start_s, end_s)]
    with video.open_video(clip) as opened:
        assert found == [time for time, _ in opened.frames() if start_s <= time < end_s]


def test_a_part_may_begin_where_frames_refer_to_what_is_before_the_key_frame(tmp_path):
    """An open group of pictures: the frames that are shown before its key frame need the group before."""
    path = str(tmp_path / "open.mp4")
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=12, options={"x264-params": "open-gop=1:keyint=12:bframes=3"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for i in range(60):
            noise = np.random.default_rng(i // 3).integers(0, 256, (32, 48, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    for start_s in (1.0, 2.0, 2.5):
        with video.open_video(path) as opened:
            found = [time for time, _ in opened.frames_between(start_s, 4.0)]
        with video.open_video(path) as opened:
            assert found == [time for time, _ in opened.frames() if start_s <= time < 4.0]


def test_a_stored_part_has_its_rate_and_a_hash_of_its_own(clip):
    read = media_file.read_video(clip, 512, 6.0, cut=(2.0, 4.0))
    frames = [av.CodecContext.create("mjpeg", "r").decode(av.Packet(jpeg))[0].to_ndarray() for jpeg in read.frames]
    assert len(read.frames) == 12 and read.fps == pytest.approx(6, rel=0.05) and read.num_source_frames == 24
    assert frames[0].mean() < frames[-1].mean()
    other = media_file.read_video(clip, 512, 6.0, cut=(2.0, 3.0))
    assert len({read.sha256, other.sha256, source_file.sha256(clip)}) == 3


def test_a_part_is_stored_as_a_file_too(clip):
    read = media_file.read_video(clip, 512, 12.0, form="video", cut=(2.0, 4.0))
    assert read.num_source_frames == 24
    frames = frames_of_video.all_frames(read.frames[0])
    np.testing.assert_allclose(levels(frames), np.arange(24, 48), atol=2)


@pytest.mark.parametrize(("cut", "reason"), [((9.5, 12.0), "it ends at"), ((2.001, 2.002), "the part has no frames")])
def test_a_part_that_is_not_there_is_refused(clip, cut, reason):
    with pytest.raises(MediaError, match=reason):
        media_file.read_video(clip, 512, 12.0, cut=cut)
