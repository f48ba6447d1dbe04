import hashlib
import io
import pathlib
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from data_pipelines.media import media_file
from data_pipelines.media.source_file import MediaError


def write_clip(path, num_frames=30, rate=30, size=(32, 48), codec="mpeg4"):
    """A clip whose frame i is grey of level 8 i; returns the path."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = *size, "yuv420p", 1_000_000
        for i in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 8 * i % 256, np.uint8), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return str(path)


def _levels(read):
    """Which of a clip's frames were kept, by their grey."""
    pictures = [np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in read.frames]
    return [round(float(picture.mean()) / 8) for picture in pictures]


@pytest.mark.parametrize(
    ("rate", "fps", "expected"),
    [
        (30, 10.0, list(range(0, 30, 3))),
        (25, 10.0, [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27]),
        (30, 30.0, list(range(30))),
        (10, 30.0, list(range(30))),  # slower than asked for: all, none twice
        (Fraction(30000, 1001), 10.0, list(range(0, 30, 3))),
    ],
)
def test_frames_are_kept_by_time_stamp(tmp_path, rate, fps, expected):
    read = media_file.read_video(write_clip(tmp_path / "a.mp4", rate=rate), 256, fps)
    assert _levels(read) == expected
    assert read.num_source_frames == 30
    assert read.fps == pytest.approx(min(float(rate), fps), rel=1e-3)


def test_uneven_time_stamps_keep_their_pace():
    ticks = media_file._Ticks(10.0)
    times = [Fraction(t, 100) for t in (5, 8, 9, 24, 25, 26, 27, 45, 100, 101, 110, 120)]
    assert [int(t * 100) for t in times if ticks.take(t)] == [5, 24, 45, 100, 110, 120]


@pytest.mark.parametrize(
    ("size", "short_side_px", "expected"),
    [((32, 48), 16, (16, 24)), ((48, 32), 16, (24, 16)), ((32, 48), 64, (32, 48))],
)
def test_videos_are_shrunk_and_never_enlarged(tmp_path, size, short_side_px, expected):
    read = media_file.read_video(write_clip(tmp_path / "a.mp4", 3, size=size), short_side_px, 10.0)
    assert {Image.open(io.BytesIO(jpeg)).size[::-1] for jpeg in read.frames} == {expected}


def test_the_hash_is_the_files(tmp_path):
    path = write_clip(tmp_path / "a.mp4", 3)
    assert media_file.read_video(path, 256, 10.0).sha256 == hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def _write_index_first(path, target):
    """The same clip with its index before its frames, as files for streaming have it: it opens wherever it is cut."""
    with av.open(path) as source, av.open(str(target), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)


@pytest.mark.parametrize(
    ("bytes_more", "message"), [(0, "it stops after 40 of 60 frames"), (20, "frame 41 is damaged|Invalid data")]
)
def test_a_clip_that_is_cut_off_is_refused(tmp_path, bytes_more, message):
    path = tmp_path / "clip.mp4"
    _write_index_first(write_clip(tmp_path / "whole.mp4", 60), path)
    with av.open(str(path)) as container:
        positions = [packet.pos for packet in container.demux(video=0)]
    path.write_bytes(path.read_bytes()[: positions[40] + bytes_more])
    with pytest.raises((MediaError, av.error.FFmpegError), match=message):
        media_file.read_video(str(path), 256, 10.0)


def test_files_without_video_are_refused(tmp_path):
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(MediaError, match="it has no video"):
        media_file.read_video(str(tmp_path / "sound.wav"), 256, 10.0)
    (tmp_path / "text.mp4").write_text("no video at all")
    with pytest.raises(av.error.FFmpegError):
        media_file.read_video(str(tmp_path / "text.mp4"), 256, 10.0)


def _gradient(height, width):
    rows, cols = np.mgrid[:height, :width]
    return np.stack([rows * 4, cols * 4, rows + cols], -1).astype(np.uint8)


def test_a_jpeg_that_fits_is_stored_as_it_is(tmp_path):
    Image.fromarray(_gradient(20, 30)).save(tmp_path / "a.jpg", quality=50)
    read = media_file.read_image(str(tmp_path / "a.jpg"), 256)
    assert read.frames == ((tmp_path / "a.jpg").read_bytes(),)
    assert (read.fps, read.num_source_frames) == (0.0, 1)


def test_other_images_become_jpeg_of_the_same_picture(tmp_path):
    picture = _gradient(20, 30)
    Image.fromarray(picture).save(tmp_path / "a.png")
    (jpeg,) = media_file.read_image(str(tmp_path / "a.png"), 256).frames
    assert jpeg[:2] == b"\xff\xd8"
    assert np.abs(np.asarray(Image.open(io.BytesIO(jpeg))).astype(int) - picture).mean() < 2


def test_large_images_are_shrunk(tmp_path):
    Image.fromarray(_gradient(60, 40)).save(tmp_path / "a.jpg")
    (jpeg,) = media_file.read_image(str(tmp_path / "a.jpg"), 20).frames
    assert Image.open(io.BytesIO(jpeg)).size == (20, 30)


def test_images_stored_turned_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[media_file.EXIF_ORIENTATION] = 3  # upside down
    picture = _gradient(20, 30)
    Image.fromarray(picture[::-1, ::-1]).save(tmp_path / "a.jpg", exif=exif, quality=95)
    (jpeg,) = media_file.read_image(str(tmp_path / "a.jpg"), 256).frames
    assert np.abs(np.asarray(Image.open(io.BytesIO(jpeg))).astype(int) - picture).mean() < 3


def test_a_cut_image_is_refused(tmp_path):
    Image.fromarray(_gradient(60, 40)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-200])
    with pytest.raises(OSError, match="truncated"):
        media_file.read_image(str(tmp_path / "a.jpg"), 256)
