"""Files with one damaged part of their structure each: a table of data_pipelines/media/README.md, row by row."""

import pathlib
import random
import re
import struct

import pytest

from tests.data_pipelines import media_clips as clips
from tests.data_pipelines import media_tables
from tests.data_pipelines.media.test_media_damage import FASTSTART, FRAGMENTS, _noise

OUTCOMES = {name: outcome for name, (outcome,) in media_tables.rows("Damaged structure").items()}

CLUSTER = b"\x1f\x43\xb6\x75"  # Matroska's; RFC 9559, section 5.1.3
AVI_ENTRY = struct.Struct("<4sIII")  # of its index: stream, flags, where, how long
TS_PACKET = 188
SAME_BYTES = {"fflags": "+bitexact"}  # Matroska's muxer would draw random names for tracks, with line ends or without
STAMPS_MS = [-300, -200, -50, 0, 40, 200, *range(250, 1450, 50)]


def clip_writer(folder: pathlib.Path):
    """A function that writes a clip of 30 numbered frames once: (codec, ending, container's options) -> bytes."""
    written = {}

    def content(codec, ending, container=None, **options) -> bytes:
        key = (codec, ending, str(container), str(options))
        if key not in written:
            path = folder / f"{len(written)}.{ending}"
            pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
            options = {"container": container, "paint": _noise, "encoder": {"g": "8"}} | options
            written[key] = pathlib.Path(clips.write(path, codec, pix_fmt, **options)).read_bytes()
        return written[key]

    return content


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return clip_writer(tmp_path_factory.mktemp("whole"))


def _replaced(content: bytes, place: int, new: bytes) -> bytes:
    return content[:place] + new + content[place + len(new) :]


def _in_box(content: bytes, name: bytes, offset: int, value: int) -> bytes:
    """With one 32-bit number of an mp4 box replaced, that starts so many bytes after the box's name."""
    return _replaced(content, content.index(name) + offset, struct.pack(">I", value))


def _sample_size_flipped(content: bytes) -> bytes:
    place = content.index(b"stsz") + 16 + 4 * 15
    return _replaced(content, place, bytes([content[place] ^ 2]))


def _cut_in_index(content: bytes) -> bytes:
    return content[: content.index(b"stsz")]


def _other_data(content: bytes, other: bytes) -> bytes:
    data = other[other.index(b"mdat") + 4 :] * 2
    start = content.index(b"mdat") + 4
    return content[:start] + data[: len(content) - start]


def _without_fragment_header(content: bytes) -> bytes:
    place = content.index(b"moof", content.index(b"moof") + 4)
    return content[: place - 500] + content[place + 500 :]


def _with_avi_index(content: bytes, edit) -> bytes:
    start = content.index(b"idx1") + 8
    entries = list(AVI_ENTRY.iter_unpack(content[start : start + 30 * AVI_ENTRY.size]))
    return _replaced(content, start, b"".join(AVI_ENTRY.pack(*entry) for entry in edit(entries)))


def _shifted(entries):
    return [(stream, flags, where + 100, size) for stream, flags, where, size in entries]


def _shuffled(entries):
    return random.Random(1).sample(entries, len(entries))


def _first_cluster_zeroed(content: bytes) -> bytes:
    first = content.index(CLUSTER)
    return _replaced(content, first, bytes(content.index(CLUSTER, first + 4) - first))


def _cut_in_first_cluster(content: bytes) -> bytes:
    return content[: content.index(CLUSTER) + 300]


def _packet_dropped(content: bytes) -> bytes:
    place = len(content) // TS_PACKET // 2 * TS_PACKET
    return content[:place] + content[place + TS_PACKET :]


def _end_zeroed(content: bytes) -> bytes:
    return _replaced(content, len(content) * 9 // 10, bytes(len(content) - len(content) * 9 // 10))


def _without_first_key_frame(content: bytes) -> bytes:
    """Of a bare HEVC stream: without its first unit of type 19 or 20 (ITU-T H.265, table 7-1)."""
    starts = [match.start() for match in re.finditer(b"\0\0\x01", content)]
    types = [content[start + 3] >> 1 & 63 for start in starts]
    first = next(i for i, kind in enumerate(types) if kind in (19, 20))
    return content[: starts[first]] + content[starts[first + 1] :]


def _page_zeroed(content: bytes) -> bytes:
    return _replaced(content, content.index(b"OggS", len(content) // 20), bytes(200))


def _codes_flipped(content: bytes) -> bytes:
    place = len(content) // 2
    return _replaced(content, place, bytes([content[place] ^ 0x55]))


CASES = {  # row of the table -> ending, a function of `whole` that makes the damaged file
    "mp4: a bit flipped in the sizes of its samples": (
        "mp4", lambda whole: _sample_size_flipped(whole("libx264", "mp4", FASTSTART))),
    "mp4: sizes of 20 samples instead of 30": (
        "mp4", lambda whole: _in_box(whole("libx264", "mp4", FASTSTART), b"stsz", 12, 20)),
    "mp4: its chunks hold 7 samples instead of 30": (
        "mp4", lambda whole: _in_box(whole("libx264", "mp4", FASTSTART), b"stsc", 16, 7)),
    "mp4: its samples last 0 s": (
        "mp4", lambda whole: _in_box(whole("libx264", "mp4", FASTSTART), b"stts", 16, 0)),
    "mp4: cut off in the index at its end": ("mp4", lambda whole: _cut_in_index(whole("libx264", "mp4"))),
    "mp4: the index of one file, the data of another": (
        "mp4", lambda whole: _other_data(whole("libx264", "mp4", FASTSTART), whole("libx265", "mp4", FASTSTART))),
    "mp4 in fragments: the header of one is missing": (
        "mp4", lambda whole: _without_fragment_header(whole("libx264", "mp4", FRAGMENTS))),
    "mp4: a web page behind it": ("mp4", lambda whole: whole("libx264", "mp4", FASTSTART) + b"<html>404</html>" * 50),
    "nut: uneven times that begin below 0": (
        "nut", lambda whole: whole("mpeg4", "nut", stamps_ms=STAMPS_MS)),
    "avi: its index leads 100 bytes too far": ("avi", lambda whole: _with_avi_index(whole("mpeg4", "avi"), _shifted)),
    "avi: its index is out of order": ("avi", lambda whole: _with_avi_index(whole("mpeg4", "avi"), _shuffled)),
    "avi: no index": ("avi", lambda whole: whole("mpeg4", "avi").replace(b"idx1", b"JUNK")),
    "mkv: the first cluster zeroed": ("mkv", lambda whole: _first_cluster_zeroed(whole("libx264", "mkv"))),
    "webm: cut off in the first cluster": ("webm", lambda whole: _cut_in_first_cluster(whole("libvpx-vp9", "webm"))),
    "webm: sent as text, so that line ends were changed": (
        "webm", lambda whole: whole("libvpx-vp9", "webm", SAME_BYTES).replace(b"\n", b"\r\n")),
    "ts: a packet missing": ("ts", lambda whole: _packet_dropped(whole("libx264", "ts"))),
    "ts: zeros from the last tenth on": ("ts", lambda whole: _end_zeroed(whole("mpeg2video", "ts"))),
    "ogv: a page at the beginning zeroed": ("ogv", lambda whole: _page_zeroed(whole("libvpx", "ogv"))),
    "wmv: 4 KiB zeroed in the middle": (
        "wmv", lambda whole: _replaced(whole("wmv2", "wmv"), len(whole("wmv2", "wmv")) // 2, bytes(4096))),
    "hevc: a bare stream without its first key frame": (
        "hevc", lambda whole: _without_first_key_frame(whole("libx265", "hevc"))),
    "hevc: a bare stream, zeros from the last tenth on": ("hevc", lambda whole: _end_zeroed(whole("libx265", "hevc"))),
    "gif: bits flipped in the codes of a picture": ("gif", lambda whole: _codes_flipped(whole("gif", "gif"))),
}  # fmt: skip


def test_every_case_has_its_row():
    assert sorted(OUTCOMES) == sorted(CASES)


@pytest.mark.parametrize("name", CASES)
def test_damaged_structure(tmp_path, whole, name):
    ending, make = CASES[name]
    path = tmp_path / f"a.{ending}"
    path.write_bytes(make(whole))
    measured = media_tables.structure_outcome(str(path))
    assert media_tables.holds(OUTCOMES[name], measured), measured
