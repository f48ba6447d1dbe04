"""Damaged files, and files that are no video: the second table of data_pipelines/media/README.md."""

import os
import random

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from data_pipelines.media import media_file, video
from data_pipelines.media.source_file import MediaError
from tests.data_pipelines import media_clips as clips

REFUSED = (MediaError, av.error.FFmpegError)
FASTSTART = {"movflags": "faststart"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}

KINDS = {  # name of the kind -> codec, ending, pix_fmt, options of the container
    "mp4 with its index first": ("libx264", "mp4", "yuv420p", FASTSTART),
    "mp4 with its index last": ("libx264", "mp4", "yuv420p", None),
    "mp4 in fragments": ("libx264", "mp4", "yuv420p", FRAGMENTS),
    "mov": ("mjpeg", "mov", "yuvj420p", FASTSTART),
    "3gp": ("mpeg4", "3gp", "yuv420p", FASTSTART),
    "mkv": ("libx265", "mkv", "yuv420p", None),
    "webm": ("libvpx-vp9", "webm", "yuv420p", None),
    "webm without duration": ("libvpx", "webm", "yuv420p", {"live": "1"}),
    "avi": ("mpeg4", "avi", "yuv420p", None),
    "avi of uncompressed frames": ("rawvideo", "avi", "yuv420p", None),
    "flv": ("flv", "flv", "yuv420p", None),
    "ts": ("mpeg2video", "ts", "yuv420p", None),
    "mpg": ("mpeg1video", "mpg", "yuv420p", None),
    "vob": ("mpeg2video", "vob", "yuv420p", None),
    "ogv": ("libvpx", "ogv", "yuv420p", None),
    "wmv": ("wmv2", "wmv", "yuv420p", None),
    "gif": ("gif", "gif", "rgb8", None),
    "ivf": ("libvpx", "ivf", "yuv420p", None),
    "apng": ("apng", "apng", "rgb24", None),
}


def _noise(number):
    """A numbered picture with something to compress, so that frames fill more than a few bytes."""
    drawn = clips.draw(number)
    drawn[32:] = np.random.default_rng(number).integers(0, 255, drawn[32:].shape)
    return drawn


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The whole clips, each written once: kind -> path."""
    folder, paths = tmp_path_factory.mktemp("whole"), {}

    def path(kind):
        if kind not in paths:
            codec, ending, pix_fmt, container = KINDS[kind]
            place = folder / f"{len(paths)}.{ending}"
            paths[kind] = clips.write(place, codec, pix_fmt, container=container, paint=_noise, encoder={"g": "8"})
        return paths[kind]

    return path


def _read(path):
    return media_file.read_video(str(path), 256, 30.0)


def _damaged(tmp_path, source, content: bytes):
    path = tmp_path / f"damaged{os.path.splitext(source)[1]}"
    path.write_bytes(content)
    return path


def _content(path) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@pytest.mark.parametrize("kind", KINDS)
def test_cut_files_are_refused(tmp_path, whole, kind):
    assert clips.numbers(_read(whole(kind))) == list(range(30))
    content = _content(whole(kind))
    places = random.Random(kind).choices(range(len(content) // 10, len(content) - 100), k=6)
    for place in places:
        with pytest.raises(REFUSED):
            _read(_damaged(tmp_path, whole(kind), content[:place]))


def test_files_cut_between_frames_are_refused(tmp_path, whole):
    source = whole("mp4 with its index first")
    with av.open(source) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    for num_left in (1, 20, 29):
        with pytest.raises(MediaError, match=f"it stops after {num_left} of 30 frames"):
            _read(_damaged(tmp_path, source, _content(source)[: places[num_left]]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "avi of uncompressed frames"])
def test_holes_are_refused(tmp_path, whole, kind):
    """A part that is missing, as after a broken transfer."""
    content = _content(whole(kind))
    for place in random.Random(kind).choices(range(len(content) // 5, len(content) * 4 // 5), k=4):
        with pytest.raises(REFUSED):
            _read(_damaged(tmp_path, whole(kind), content[:place] + content[place + 1500 :]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("wmv", "avi of uncompressed frames")])
def test_zeroed_parts_are_refused(tmp_path, whole, kind):
    """A part that was never written, as after a crash."""
    content = _content(whole(kind))
    for place in random.Random(kind).choices(range(len(content) // 5, len(content) - 5000), k=4):
        zeroed = content[:place] + bytes(4096) + content[place + 4096 :]
        with pytest.raises(REFUSED):
            _read(_damaged(tmp_path, whole(kind), zeroed))


@pytest.mark.parametrize("kind", ["mp4 with its index first", "mkv", "flv", "ts", "mpg", "avi", "ogv", "apng"])
def test_overwritten_parts_are_refused(tmp_path, whole, kind):
    """A part that became another file's: 4 KiB of noise."""
    content = _content(whole(kind))
    for place in random.Random(kind).choices(range(len(content) // 5, len(content) - 5000), k=4):
        overwritten = content[:place] + random.Random(place).randbytes(4096) + content[place + 4096 :]
        with pytest.raises(REFUSED):
            _read(_damaged(tmp_path, whole(kind), overwritten))


def _damaged_at_random(content: bytes, rng: random.Random, end: int) -> bytes:
    """Cut off, or with a part missing, zeroed or overwritten, anywhere from behind the first few bytes up to `end`."""
    place, length = rng.randrange(40, end), rng.choice((200, 1500, 4096, 16384))
    rest = content[place + length :]
    return content[:place] + rng.choice((b"", rest, bytes(length) + rest, rng.randbytes(length) + rest))


@pytest.mark.parametrize("kind", KINDS)
def test_no_frame_is_lost_silently(tmp_path, whole, kind):
    content, rng = _content(whole(kind)), random.Random(kind)
    for _ in range(12):
        end = len(content) - (20_000 if kind == "wmv" else 100)  # nothing tells that WMV's last frame is missing
        path = _damaged(tmp_path, whole(kind), _damaged_at_random(content, rng, end))
        try:
            read = _read(path)
        except REFUSED:
            continue
        assert len(read.frames) == 30


@pytest.mark.parametrize("kind", ["ogv", "apng"])
def test_flipped_bits_are_refused_where_there_are_checksums(tmp_path, whole, kind):
    content = _content(whole(kind))
    for place in random.Random(kind).choices(range(len(content) // 5, len(content) - 100), k=6):
        with pytest.raises(REFUSED):
            flipped = content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]
            _read(_damaged(tmp_path, whole(kind), flipped))


def test_the_hash_tells_flipped_bits_that_nothing_else_tells(tmp_path, whole):
    content = bytearray(_content(whole("avi of uncompressed frames")))
    content[len(content) // 2] ^= 4
    damaged = _read(_damaged(tmp_path, whole("avi of uncompressed frames"), bytes(content)))
    assert damaged.sha256 != _read(whole("avi of uncompressed frames")).sha256


def test_damage_is_named(tmp_path, whole):
    content = bytearray(_content(whole("mp4 with its index first")))
    middle = len(content) // 2
    content[middle : middle + 8192] = random.Random(0).randbytes(8192)
    with pytest.raises(MediaError, match=r"frame \d+ is damaged: h264: "):
        _read(_damaged(tmp_path, whole("mp4 with its index first"), bytes(content)))


def test_starting_between_key_frames_is_refused(tmp_path, whole):
    path = clips.copy(whole("ts"), tmp_path / "a.ts", lambda place: place >= 11)
    with pytest.raises(REFUSED):
        _read(path)


class _Lossy:
    """A decoder that says nothing of one frame."""

    def __init__(self, decoder):
        self._decoder, self._num_frames = decoder, 0

    def decode(self, packet):
        frames = self._decoder.decode(packet)
        self._num_frames += len(frames)
        return [] if self._num_frames == 7 else frames


def test_frames_that_the_decoder_leaves_out_are_noticed(whole, monkeypatch):
    decoder = video._decoder
    monkeypatch.setattr(video, "_decoder", lambda stream: _Lossy(decoder(stream)))
    with pytest.raises(MediaError, match="1 of its 30 frames are missing"):
        _read(whole("mp4 with its index first"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.mp4", b"", "it is empty"),
        ("text.mp4", b"no video at all", "Invalid data|moov atom not found"),
        ("text.txt", b"no video at all\n" * 50, "it is not a video but tty"),
        ("page.mp4", b"<!DOCTYPE html><html><body>404 not found</body></html>" * 20, "Invalid data|moov atom"),
        ("noise.mp4", random.Random(0).randbytes(50_000), "Invalid data|moov atom"),
        ("noise.mpg", random.Random(1).randbytes(50_000), "Invalid data|damaged|no video|no frames"),
        ("zeros.mkv", bytes(50_000), "Invalid data|damaged|no video|no frames"),
        (
            "list.m3u8",
            b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nwhole.ts\n#EXT-X-ENDLIST\n",
            "none of the formats",
        ),
        ("list.ffconcat", b"ffconcat version 1.0\nfile whole.ts\n", "none of the formats"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path, name, content, message):
    clips.write(tmp_path / "whole.ts", "mpeg2video", numbers=range(3))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(REFUSED, match=message):
        _read(tmp_path / name)


def test_single_pictures_are_refused(tmp_path):
    for ending in ("jpg", "png", "bmp"):
        Image.fromarray(clips.draw(3)).save(tmp_path / f"a.{ending}")
        with pytest.raises(MediaError, match="it is not a video but (jpeg|png|bmp)"):
            _read(tmp_path / f"a.{ending}")


@pytest.mark.parametrize(
    ("ending", "codec", "has_cover"),
    [("m4a", "aac", False), ("mka", "aac", False), ("wav", "pcm_s16le", False), ("mp4", "aac", True)],
)
def test_sound_alone_is_refused(tmp_path, ending, codec, has_cover):
    with av.open(str(tmp_path / f"a.{ending}"), "w") as container:
        sound = container.add_stream(codec, rate=8000, layout="mono")
        if has_cover:
            cover = container.add_stream("mjpeg", rate=1)
            cover.height, cover.width, cover.pix_fmt = *clips.SIZE_PX, "yuvj420p"
            cover.disposition = Disposition.attached_pic
            container.mux(cover.encode(av.VideoFrame.from_ndarray(clips.draw(1))))
            container.mux(cover.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with pytest.raises(MediaError, match="it has no video"):
        _read(tmp_path / f"a.{ending}")


def test_no_frames_are_refused(tmp_path):
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("rawvideo", rate=10)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        container.start_encoding()
    with pytest.raises(MediaError, match="it has no frames"):
        _read(tmp_path / "a.avi")


@pytest.mark.parametrize("read", [lambda path: _read(path), lambda path: media_file.read_image(str(path), 256)])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, read):
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "folder.mp4").mkdir()
    for path in (tmp_path / "fifo.mp4", tmp_path / "folder.mp4", "/dev/zero"):
        with pytest.raises(MediaError, match="it is not a regular file"):
            read(path)
    (tmp_path / "broken.mp4").symlink_to("nowhere.mp4")
    with pytest.raises(FileNotFoundError, match="broken.mp4"):
        read(tmp_path / "broken.mp4")
