"""Where media are opened, and that a hostile file or record opens nothing else and ends within its time limit."""

import ast
import contextlib
import io
import pathlib
import socket
import struct
import threading
import time
import zlib

import av
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

import cover_jax
import data_pipelines
from cover_jax.predict import read_clips
from data_pipelines.doctor import page
from data_pipelines.leaks import facts
from data_pipelines.media import frames_of_video, media_file, opening
from data_pipelines.media.source_file import MediaError
from data_pipelines.output import html
from data_pipelines.stream import decode
from tests.data_pipelines import media_clips as clips

OPENERS = ("av.open", "Image.open", "av.CodecContext.create", "tf.io.decode_jpeg", "tf.io.decode_image")
PLACES = {  # every place that opens media: (file, function, call) -> what keeps a hostile file from opening another
    ("data_pipelines/media/opening.py", "open_container", "av.open"): "format_whitelist",
    ("data_pipelines/media/opening.py", "open_image", "Image.open"): "formats",
    ("data_pipelines/output/html.py", "thumbnail", "Image.open"): "formats",
    ("data_pipelines/doctor/page.py", "jpeg_size_px", "Image.open"): "formats",
    ("data_pipelines/media/video.py", "_decoder", "av.CodecContext.create"): "decodes packets, opens no file",
    ("data_pipelines/stream/decode.py", "_decode_one", "tf.io.decode_jpeg"): "without_gifs",
    ("data_pipelines/leaks/facts.py", "_grey_frame", "tf.io.decode_jpeg"): "extract_jpeg_shape",
    ("data_pipelines/media/media_file.py", "_encode_h264", "av.open"): "writes",
    ("cover_jax/predict/explain.py", "write", "av.open"): "writes",
}


def calls_that_open() -> set[tuple[str, str, str]]:
    """(file, function, call) of each call of OPENERS in the two packages."""
    found = set()
    for package in (cover_jax, data_pipelines):
        root = pathlib.Path(package.__file__).parent
        for path in root.rglob("*.py"):
            tree = ast.parse(path.read_text())
            for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
                names = [ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)]
                place = str(path.relative_to(root.parent)), function.name
                found |= {(*place, name) for name in names if name.endswith(OPENERS)}
    return found


def test_all_places_that_open_media_are_known():
    """A new one goes through `opening`, or here with its reason."""
    assert calls_that_open() == set(PLACES)


def test_whitelists_are_given():
    for (file, function, call), guard in PLACES.items():
        root = pathlib.Path(data_pipelines.__file__).parents[1]
        tree = ast.parse((root / file).read_text())
        (node,) = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == function]
        source = ast.unparse(node)
        if guard in ("formats", "format_whitelist", "extract_jpeg_shape"):
            assert guard in source
        if guard == "writes":
            assert f"{call}(" in source and "'w'" in source


@pytest.fixture
def secret(tmp_path, monkeypatch) -> str:
    """The name of a clip, in the current folder, that no other file may lead to."""
    clips.write(tmp_path / "secret.mp4", "libx264", numbers=range(3))
    monkeypatch.chdir(tmp_path)
    return "secret.mp4"


def hostile_files(secret: str, port: int) -> dict[str, bytes]:
    """Name -> bytes of files that name the secret one, or make a player listen."""
    return {
        "a.ffconcat": f"ffconcat version 1.0\nfile '{secret}'\n".encode(),
        "b.ffconcat": f"ffconcat version 1.0\nfile 'file:{secret}'\noption protocol_whitelist file\n".encode(),
        "a.sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n".encode(),
        "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{secret}\n#EXT-X-ENDLIST\n".encode(),
        "a.mpd": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        f'mediaPresentationDuration="PT1S"><Period><AdaptationSet contentType="video"><Representation id="0" '
        f'bandwidth="1"><BaseURL>{secret}</BaseURL></Representation></AdaptationSet></Period></MPD>'.encode(),
        "a.idx": b"# VobSub index file, v7 (do not modify this line!)\nsize: 720x576\n",
        "a.rtsp": f"rtsp://127.0.0.1:{port}/a\n".encode(),
        "a.ism": b'<SmoothStreamingMedia MajorVersion="2" MinorVersion="0" Duration="1"></SmoothStreamingMedia>',
    }


@pytest.fixture
def free_port() -> int:
    """A UDP port that nothing listens on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@tf.function(input_signature=[tf.TensorSpec((), tf.string)], autograph=False)
def decode_stored(video):
    """As training decodes a stored video."""
    return decode.decode_video(video, tf.constant([0], tf.int64), clips.SIZE_PX)


NAMES = ("a.ffconcat", "b.ffconcat", "a.sdp", "a.m3u8", "a.mpd", "a.idx", "a.rtsp", "a.ism")


def binds(port: int, call) -> bool:
    """Whether a UDP port is taken while `call` runs."""
    taken, done = [], threading.Event()

    def watch():
        while not done.is_set():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    taken.append(True)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return bool(taken)


def test_the_hostile_files_are_hostile(secret, free_port):
    """Else the tests below would try nothing: opened without whitelists, one reads a file and one listens."""
    files = hostile_files(secret, free_port)
    with av.open(io.BytesIO(files["a.ffconcat"])) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3

    def listen():
        with contextlib.suppress(av.error.FFmpegError):
            av.open(io.BytesIO(files["a.sdp"]), timeout=0.2).close()

    assert binds(free_port, listen)


@pytest.mark.parametrize("name", NAMES)
def test_hostile_records_are_undecodable(secret, free_port, name):
    """A stored video record with the bytes of a playlist or of the description of a stream."""
    data = hostile_files(secret, free_port)[name]

    def read():
        for call in (lambda: frames_of_video.frames_at(data, [0]), lambda: list(frames_of_video.all_frames(data))):
            with pytest.raises((MediaError, av.error.FFmpegError)):
                call()
        with pytest.raises(tf.errors.OpError):
            decode_stored(tf.constant(data))

    start = time.monotonic()
    assert not binds(free_port, read)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("form", ["frames", "video"])
@pytest.mark.parametrize("name", NAMES)
def test_hostile_files_are_refused(tmp_path, secret, free_port, name, form):
    (tmp_path / name).write_bytes(hostile_files(secret, free_port)[name])

    def read():
        with pytest.raises((MediaError, av.error.FFmpegError)):
            media_file.read_video(str(tmp_path / name), 256, 10.0, form)

    assert not binds(free_port, read)


def test_the_reason_says_that_a_playlist_is_no_video(tmp_path, secret, free_port):
    for name in ("a.ffconcat", "a.sdp", "a.m3u8"):
        (tmp_path / name).write_bytes(hostile_files(secret, free_port)[name])
        with pytest.raises(MediaError, match="none of the formats that are read as videos"):
            media_file.read_video(str(tmp_path / name), 256, 10.0)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


def test_images_that_start_a_program_are_refused(tmp_path, monkeypatch):
    """Pillow gives EPS to Ghostscript."""
    (tmp_path / "a.jpg").write_bytes(EPS)
    monkeypatch.setattr("subprocess.Popen", lambda *args, **kwargs: pytest.fail("it starts a program"))
    for read in (
        lambda: media_file.read_image(str(tmp_path / "a.jpg"), 256),
        lambda: html.thumbnail(EPS, 64),
        lambda: page.jpeg_size_px(EPS),
    ):
        with pytest.raises(UnidentifiedImageError):
            read()
    assert not read_clips._is_still(str(tmp_path / "a.jpg"))


def gif_bomb(side_px: int, num_frames: int) -> bytes:
    """A GIF of one colour, whose codes stand for ever longer runs of it: some hundred bytes a million pixels."""
    clear, end, bits, done = 4, 5, [], 0
    while done < side_px**2:
        bits += [f"{clear:0{3 if not bits else 12}b}", f"{0:03b}"]  # the table starts anew with codes of 3 bits
        done, run, code, width = done + 1, 1, 6, 3
        while done < side_px**2 and code < 4095:
            bits.append(f"{code:0{width}b}")
            run, code = run + 1, code + 1
            done += run
            width = min(12, max(width, code.bit_length()))
    bits.append(f"{end:0{width}b}")
    stream = int("".join(reversed(bits)), 2).to_bytes(sum(map(len, bits)) // 8 + 1, "little")
    blocks = b"".join(bytes([len(part)]) + part for part in (stream[i : i + 255] for i in range(0, len(stream), 255)))
    frame = b"!\xf9\x04\0\x05\0\0\0," + struct.pack("<4HB", 0, 0, side_px, side_px, 0) + b"\x02" + blocks + b"\0"
    head = b"GIF89a" + struct.pack("<2H3B", side_px, side_px, 0x81, 0, 0) + bytes(range(12))
    return head + frame * num_frames + b";"


def png_bomb(side_px: int, chunk: bytes = b"") -> bytes:
    """A black PNG, a thousand times smaller than its pixels."""

    def framed(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(bytes((1 + 3 * side_px) * side_px), 9)
    header = struct.pack(">2I5B", side_px, side_px, 8, 2, 0, 0, 0)
    text = framed(b"zTXt", b"a\0\0" + chunk) if chunk else b""
    return b"\x89PNG\r\n\x1a\n" + framed(b"IHDR", header) + text + framed(b"IDAT", pixels) + framed(b"IEND", b"")


def test_the_bombs_are_pictures(tmp_path):
    """Else the tests below would try nothing."""
    (tmp_path / "a.gif").write_bytes(gif_bomb(300, 4))
    assert media_file.read_video(str(tmp_path / "a.gif"), 256, 10.0).num_source_frames == 4
    assert Image.open(io.BytesIO(png_bomb(300))).convert("RGB").getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize("form", ["frames", "video"])
def test_a_gif_bomb_ends_within_its_time_limit(tmp_path, monkeypatch, form):
    """100,000 frames of 4 megapixels in a few MB: hours without a limit."""
    monkeypatch.setattr(opening, "MAX_DECODE_S", 1)
    bomb = gif_bomb(2000, 1)
    start, end = bomb.index(b"!"), len(bomb) - 1
    (tmp_path / "a.gif").write_bytes(bomb[:start] + bomb[start:end] * (4_000_000 // (end - start)) + b";")
    began = time.monotonic()
    with pytest.raises(MediaError, match=r"its first \d+ frames took longer than 1 s to decode"):
        media_file.read_video(str(tmp_path / "a.gif"), 256, 10.0, form)
    assert time.monotonic() - began < 10


def test_a_stored_gif_bomb_ends_within_its_time_limit(monkeypatch):
    monkeypatch.setattr(frames_of_video, "MAX_READ_S", 1)
    monkeypatch.setattr(opening, "MAX_DECODE_S", 1)
    bomb = gif_bomb(2000, 500)
    for read in (lambda: frames_of_video.frames_at(bomb, [499]), lambda: list(frames_of_video.all_frames(bomb))):
        began = time.monotonic()
        with pytest.raises(MediaError, match="longer than 1 s"):
            read()
        assert time.monotonic() - began < 10


def test_gifs_among_the_frames_of_a_record_are_not_decoded():
    """TensorFlow would decode all frames of one before it refuses it."""
    jpeg = media_file.encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    frames = tf.constant([jpeg, gif_bomb(64, 2), b"", b"GIF"])
    assert decode.without_gifs(frames).numpy().tolist() == [jpeg, b"", b"", b"GIF"]
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode.decode_frames(frames[:2], (8, 8))
    with pytest.raises(tf.errors.InvalidArgumentError):
        facts._grey_frame(frames[1])


def test_png_bombs_end_within_their_time_limit(tmp_path, monkeypatch):
    (tmp_path / "large.png").write_bytes(png_bomb(8193))
    with pytest.raises(MediaError, match="8193 x 8193 pixels, more than"):
        media_file.read_image(str(tmp_path / "large.png"), 256)
    (tmp_path / "text.png").write_bytes(png_bomb(8, zlib.compress(bytes(1 << 26), 9)))
    with pytest.raises(ValueError, match="Decompressed data too large"):
        media_file.read_image(str(tmp_path / "text.png"), 256)
    (tmp_path / "slow.png").write_bytes(png_bomb(4000))
    monkeypatch.setattr(opening, "MAX_DECODE_S", 0)
    with pytest.raises(MediaError, match="it took longer than 0 s to decode"):
        media_file.read_image(str(tmp_path / "slow.png"), 256)
