"""Hidden frames of VP9 and AV1, in whatever packets they stand: none is missed, and none is taken for a shown one.

`vp9_alt_ref.webm` has 40 numbered frames (`media_clips.draw`) and four hidden ones, each in one packet with a shown
one. Only an encoder that looks at a clip twice hides frames; PyAV cannot do that. It was made from the frames as PNG by

    for p in 1 2; do ffmpeg -framerate 30 -i %03d.png -c:v libvpx-vp9 -pix_fmt yuv420p -b:v 60k -auto-alt-ref 1 \
        -lag-in-frames 16 -g 20 -map_metadata -1 -fflags +bitexact -pass $p -y vp9_alt_ref.webm; done
"""

import os
import pathlib
import types
from fractions import Fraction

import av
import numpy as np
import pytest

from data_pipelines.media import frames_of_video, media_file, shown_frames
from tests.data_pipelines import media_clips as clips

VP9_FILE = pathlib.Path(__file__).parent / "vp9_alt_ref.webm"
VP9_FRAMES, AV1_FRAMES = 40, 30
VP9_SHOW_EXISTING = 0x88  # a whole frame: marker, profile 0, show_existing_frame; its last three bits say which
VP9_SHOW_FRAME = 0x02  # in the first byte of a frame of profile 0


def packets_of(path) -> list[tuple[int, bool, bytes]]:
    """(time in ms, whether it is a key frame, bytes) of each packet."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        return [(round(1000 * packet.pts * packet.time_base), packet.is_keyframe, bytes(packet)) for packet in packets]


def write_packets(path, codec, packets) -> str:
    """A Matroska file of such packets, each as it is; the encoder only gives its header."""
    options = {"fflags": "-autobsf"}  # else the muxer puts hidden frames into one packet with shown ones again
    with clips.own_priority(), av.open(str(path), "w", format="matroska", options=options) as container:
        stream = container.add_stream(codec, rate=30)
        stream.height, stream.width, stream.pix_fmt = *clips.SIZE_PX, "yuv420p"
        for time_ms, is_key, data in packets:
            packet = av.Packet(data)
            packet.pts = packet.dts = time_ms
            packet.time_base, packet.is_keyframe, packet.stream = Fraction(1, 1000), is_key, stream
            container.mux(packet)
    return str(path)


def vp9_frames(packet: bytes) -> list[bytes]:
    """The frames of a packet, without the index of a superframe."""
    return [packet[start:end] for start, end in shown_frames._vp9_frames(packet)]


def av1_units(packet: bytes) -> list[bytes]:
    """The units of a packet, each with the size that begins it."""
    units = []
    for unit in shown_frames._av1_units(packet):
        size, rest = bytearray(), len(unit.payload)
        while not size or rest:
            size.append(rest & 0x7F | (0x80 if rest > 0x7F else 0))
            rest >>= 7
        units.append(bytes([unit.kind << 3 | shown_frames.OBU_HAS_SIZE]) + size + unit.payload)
    return units


def apart(packets, parts_of, shift_ms: int = 0) -> list[tuple[int, bool, bytes]]:
    """Each part of a packet in one of its own; the last is the shown one, those before it come `shift_ms` sooner."""
    split = []
    for time_ms, is_key, data in packets:
        *hidden, shown = parts_of(data)
        split += [(time_ms - shift_ms, is_key and not i, part) for i, part in enumerate(hidden)]
        split.append((time_ms, is_key and not hidden, shown))
    return split


def superframe(frames: list[bytes]) -> bytes:
    """Frames of VP9 in one packet: VP9 bitstream specification 0.6, annex B."""
    marker = bytes([shown_frames.VP9_SUPERFRAME << 5 | 3 << 3 | len(frames) - 1])
    sizes = b"".join(len(frame).to_bytes(4, "little") for frame in frames)
    return b"".join(frames) + marker + sizes + marker


@pytest.fixture(scope="module")
def av1_file(tmp_path_factory) -> str:
    """30 numbered frames, with hidden ones in packets with shown ones, and packets that show an earlier frame."""
    path = tmp_path_factory.mktemp("av1") / "a.mkv"
    return clips.write(path, "libsvtav1", numbers=range(AV1_FRAMES), encoder={"preset": "10"})


def check_read(path, num_frames: int, tmp_path) -> None:
    """Read as both forms, and frame by frame, it has all its frames in order."""
    assert clips.numbers(media_file.read_video(path, 256, 30.0)) == list(range(num_frames))
    stored = media_file.read_video(path, 256, 30.0, "video")
    assert stored.num_source_frames == num_frames
    for wanted in ([0, num_frames - 1], [7], [3, 12, 21], range(num_frames)):
        assert [clips.number(frame) for frame in frames_of_video.frames_at(stored.frames[0], wanted)] == list(wanted)
    with pytest.raises(IndexError):
        frames_of_video.frames_at(stored.frames[0], [num_frames])


def test_vp9_hidden_frames_in_packets_with_shown_ones(tmp_path):
    assert sum(len(vp9_frames(data)) for _, _, data in packets_of(VP9_FILE)) == VP9_FRAMES + 4
    check_read(str(VP9_FILE), VP9_FRAMES, tmp_path)


@pytest.mark.parametrize("shift_ms", [0, 1, 10])
def test_vp9_hidden_frames_in_packets_of_their_own(tmp_path, shift_ms):
    packets = apart(packets_of(VP9_FILE), vp9_frames, shift_ms)
    assert len(packets) == VP9_FRAMES + 4
    check_read(write_packets(tmp_path / "a.webm", "libvpx-vp9", packets), VP9_FRAMES, tmp_path)


def test_vp9_packets_that_show_an_earlier_frame(tmp_path):
    """Key frames, hidden by hand, and after each a packet of one byte that shows it."""

    def hidden_then_shown(data: bytes) -> list[bytes]:
        return [bytes([data[0] & ~VP9_SHOW_FRAME]) + data[1:], bytes([VP9_SHOW_EXISTING])]

    packets = packets_of(VP9_FILE)
    split = [part for packet in packets for part in (apart([packet], hidden_then_shown) if packet[1] else [packet])]
    assert len(split) == VP9_FRAMES + 2
    check_read(write_packets(tmp_path / "a.mkv", "libvpx-vp9", split), VP9_FRAMES, tmp_path)


def test_vp9_packets_of_several_shown_frames(tmp_path):
    packets = packets_of(VP9_FILE)
    whole = [vp9_frames(data) for _, _, data in packets]
    pairs = [(packets[i][0], packets[i][1], superframe(whole[i] + whole[i + 1])) for i in range(0, VP9_FRAMES, 2)]
    path = write_packets(tmp_path / "a.mkv", "libvpx-vp9", pairs)
    assert media_file.read_video(path, 256, 30.0).num_source_frames == VP9_FRAMES
    assert [clips.number(frame) for frame in frames_of_video.all_frames(pathlib.Path(path).read_bytes())] == list(
        range(VP9_FRAMES)
    )
    found = frames_of_video.frames_at(pathlib.Path(path).read_bytes(), [5, 30])
    assert [clips.number(frame) for frame in found] == [5, 30]


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="a system without scheduling policies")
def test_an_encoder_does_not_keep_the_process_at_real_time_priority(tmp_path):
    clips.write(tmp_path / "a.mkv", "libsvtav1", numbers=range(2), encoder={"preset": "10"})
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_av1_hidden_frames_in_packets_with_shown_ones(tmp_path, av1_file):
    packets = packets_of(av1_file)
    assert len(packets) == AV1_FRAMES and sum(len(av1_units(data)) for _, _, data in packets) > AV1_FRAMES + 5
    check_read(av1_file, AV1_FRAMES, tmp_path)


@pytest.mark.parametrize("shift_ms", [0, 5])
def test_av1_hidden_frames_in_packets_of_their_own(tmp_path, av1_file, shift_ms):
    packets = apart(packets_of(av1_file), av1_units, shift_ms)
    assert len(packets) > AV1_FRAMES + 5
    check_read(write_packets(tmp_path / "a.mkv", "libsvtav1", packets), AV1_FRAMES, tmp_path)


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        ("82", 1), ("80", 0), ("84", 0), ("86", 1), ("88", 1),  # key frame shown, hidden; other hidden, shown; existing
        ("b1", 1), ("b0", 0), ("b2", 0), ("b3", 1), ("b4", 1),  # the same of profile 3
        ("00", 1), ("ff", 1), ("c9", 1),  # no VP9: the decoder is to say so
        ("8486" + "c1" + "0101" + "c1", 1), ("8684" + "c1" + "0101" + "c1", 1), ("8686" + "c1" + "0101" + "c1", 2),
        ("848486" + "c2" + "010101" + "c2", 1),
        ("86" + "c1" + "0100" + "c1", 1),  # a frame of no bytes
        ("86" + "c9" + "01000000" + "c9", 1),  # sizes of two bytes
        ("c1", 1), ("00c1", 1),  # an index that does not fit
    ],
)  # fmt: skip
def test_vp9_headers(packet, expected):
    assert shown_frames.Vp9().count(bytes.fromhex(packet)) == expected


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        ("1200", 0),  # a delimiter alone
        ("320110", 1), ("320100", 0), ("1a0180", 1), ("1a0120", 0), ("1a0130", 1),  # shown, hidden; existing; headers
        ("12003201003201101a0180", 2),
        ("3010", 1), ("3000", 0),  # no size: to the end of the packet
        ("36000100", 0), ("36000110", 1), ("36080110", 0),  # with an extension; of the second spatial layer
        ("3a0110", 0),  # a header that is repeated
        ("0a0108" + "320100", 1),  # the short header of still pictures: all are shown
        ("", 0), ("32", 0), ("32ffffffffffffffffff", 0),  # cut off
    ],
)  # fmt: skip
def test_av1_headers(packet, expected):
    assert shown_frames.Av1(b"").count(bytes.fromhex(packet)) == expected


def test_av1_still_pictures_are_known_by_the_streams_header():
    counter = shown_frames.Av1(bytes.fromhex("81000c00" + "0a0108"))
    assert counter.count(bytes.fromhex("320100")) == 1


@pytest.mark.parametrize("ending", ["avi", "mp4"])
def test_mpeg4_frames_that_are_not_coded_repeat_the_one_before(tmp_path, ending):
    """Capture programs write them where nothing moves; here the mark is taken away by hand."""
    path = clips.write(tmp_path / f"a.{ending}", "mpeg4", encoder={"g": "1"})
    not_coded = (7, 8, 20)
    packets = packets_of(path)
    with clips.edited(path) as content:
        for i in not_coded:  # 2 bits of kind, 1 of seconds, 1, 5 of time, 1, then the mark, after the start code
            frame = packets[i][2]
            content[content.index(frame) + frame.index(b"\0\0\x01\xb6") + 5] &= ~0x20
    expected = [i for i in range(30) if i not in not_coded]
    with av.open(path) as container:
        assert sum(1 for _ in container.decode(video=0)) == len(expected)
    read = media_file.read_video(path, 256, 30.0)
    assert clips.numbers(read) == expected
    data = pathlib.Path(path).read_bytes()
    assert [clips.number(frame) for frame in frames_of_video.frames_at(data, [6, 7, 18])] == [6, 9, 21]


def test_other_codecs_show_a_frame_per_packet():
    with_b_frames = types.SimpleNamespace(canonical_name="mpeg4")
    context = types.SimpleNamespace(codec=with_b_frames, extradata=None, has_b_frames=True)
    assert shown_frames.counter(context).count(bytes.fromhex("000001b653d0")) == 1
    context = types.SimpleNamespace(codec=types.SimpleNamespace(canonical_name="h264"), extradata=None)
    assert shown_frames.counter(context).count(b"any") == 1


def test_noise_is_counted_without_an_error():
    rng = np.random.default_rng(0)
    for size in range(1, 200):
        noise = rng.integers(0, 256, size, np.uint8).tobytes()
        assert shown_frames.Vp9().count(noise) >= 0 and shown_frames.Av1(noise).count(noise) >= 0
