"""How many frames of a packet are shown: VP8, VP9 and AV1 have hidden frames, which only other frames refer to.

Most files store a hidden frame in one packet with a shown frame. Some files store it in a packet of its own, and some
packets show a frame that was decoded before. In MPEG-4 a packet may say that the previous frame stays on display.
"""

import dataclasses
import re
from collections.abc import Iterator

VP8_SHOWN = 0x10  # bit in a frame's first byte: RFC 6386, section 9.1
VP9_MARKER = 0b10  # the first two bits of a frame: VP9 bitstream specification 0.6, section 6.2
VP9_SUPERFRAME = 0b110  # the first three bits of a superframe's last byte: same specification, annex B
# Types of AV1's units, and the bits of their first byte: AV1 bitstream specification, sections 5.3.2 and 6.2.2.
OBU_SEQUENCE_HEADER, OBU_FRAME_HEADER, OBU_FRAME = 1, 3, 6
OBU_HAS_EXTENSION, OBU_HAS_SIZE = 0x04, 0x02
AV1_CONFIG_BYTES = 4  # in mp4 and Matroska, before the units that describe the stream: AV1 in ISOBMFF, section 2.3
LEB128_BYTES = 8  # maximum length
# Start codes of MPEG-4: ISO/IEC 14496-2, table 6-3.
MPEG4_LAYER, MPEG4_VOP = re.compile(rb"\0\0\x01[\x20-\x2f]"), re.compile(rb"\0\0\x01\xb6")
MPEG4_EXTENDED_ASPECT = 15
MPEG4_VBV_BITS = 79


def counter(codec_context) -> "Vp8 | Vp9 | Av1 | Mpeg4 | OnePerPacket":
    """The counter for a stream; each has `count(packet: bytes) -> int`."""
    name = codec_context.codec.canonical_name
    if name == "av1":
        return Av1(codec_context.extradata or b"")
    if name == "mpeg4" and not codec_context.has_b_frames:  # with B-frames FFmpeg outputs a frame for each packet
        return Mpeg4(codec_context.extradata or b"")
    if name == "vp9":
        return Vp9()
    return Vp8() if name == "vp8" else OnePerPacket()


class OnePerPacket:
    """Codecs whose packets show one frame each."""

    def count(self, packet: bytes) -> int:
        """Frames that the packet shows."""
        return 1


class Vp8:
    """VP8: one frame per packet, hidden or shown."""

    def count(self, packet: bytes) -> int:
        """Frames that the packet shows."""
        return int(bool(packet[0] & VP8_SHOWN))


class Vp9:
    """VP9: a packet is a frame, or a superframe of up to eight."""

    def count(self, packet: bytes) -> int:
        """Frames that the packet shows; 1 for data that is not VP9, so that the decoder decides."""
        return sum(_is_vp9_shown(packet[start:end]) for start, end in _vp9_frames(packet))


def _vp9_frames(packet: bytes) -> Iterator[tuple[int, int]]:
    """The first byte and the end of each frame of a packet."""
    last = packet[-1]
    size_bytes, num_frames = (last >> 3 & 3) + 1, (last & 7) + 1
    index_start = len(packet) - 2 - size_bytes * num_frames
    if last >> 5 != VP9_SUPERFRAME or index_start < 0 or packet[index_start] != last:
        yield 0, len(packet)
        return
    start = 0
    for i in range(num_frames):
        at = index_start + 1 + i * size_bytes
        end = start + int.from_bytes(packet[at : at + size_bytes], "little")
        if end > start:
            yield start, end
        start = end


def _is_vp9_shown(frame: bytes) -> bool:
    bits = _Bits(frame)
    if bits.read(2) != VP9_MARKER:
        return True
    profile = bits.read(1) | bits.read(1) << 1
    if profile == 3:
        bits.read(1)
    shows_existing, _, show_frame = bits.read(1), bits.read(1), bits.read(1)
    return bool(shows_existing or show_frame)


class Av1:
    """AV1: a packet holds units, and some units start a frame."""

    def __init__(self, extradata: bytes):
        self._all_are_shown = False  # the stream has the short header of still pictures
        if extradata:
            self.count(extradata[AV1_CONFIG_BYTES:])

    def count(self, packet: bytes) -> int:
        """Frames that the packet shows. Spatial layers are shown as one picture: only the lowest layer is counted."""
        num_shown = 0
        for unit in _av1_units(packet):
            bits = _Bits(unit.payload)
            if unit.kind == OBU_SEQUENCE_HEADER:
                bits.read(3 + 1)  # profile, still_picture
                self._all_are_shown = bool(bits.read(1))
            elif unit.kind in (OBU_FRAME_HEADER, OBU_FRAME) and not unit.spatial_layer:
                num_shown += self._is_shown(bits)
        return num_shown

    def _is_shown(self, bits: "_Bits") -> bool:
        if self._all_are_shown or bits.read(1):  # show_existing_frame
            return True
        bits.read(2)  # frame_type
        return bool(bits.read(1))


class Mpeg4:
    """MPEG-4 part 2: a frame that is not coded repeats the previous frame, and the decoder outputs no frame for it."""

    def __init__(self, extradata: bytes):
        self._time_bits: int | None = None
        self._read_layer(extradata)

    def count(self, packet: bytes) -> int:
        """Frames that the packet shows."""
        self._read_layer(packet)
        frames = [packet[match.end() :] for match in MPEG4_VOP.finditer(packet)]
        return 1 if len(frames) != 1 or self._is_coded(frames[0]) else 0

    def _is_coded(self, vop: bytes) -> bool:
        """Whether a frame is coded: ISO/IEC 14496-2, section 6.2.5."""
        if self._time_bits is None:
            return True
        bits = _Bits(vop)
        bits.read(2)  # kind of frame
        while bits.read(1) and not bits.at_end:  # modulo_time_base
            pass
        bits.read(1 + self._time_bits + 1)
        return bool(bits.read(1))

    def _read_layer(self, data: bytes) -> None:
        """Reads how many bits the time of a frame has: ISO/IEC 14496-2, section 6.2.3."""
        layer = MPEG4_LAYER.search(data)
        if layer is None:
            return
        bits = _Bits(data[layer.end() :])
        bits.read(1 + 8)  # random access, type of object
        if bits.read(1):
            bits.read(4 + 3)  # version, priority
        if bits.read(4) == MPEG4_EXTENDED_ASPECT:
            bits.read(8 + 8)
        if bits.read(1):
            bits.read(2 + 1)  # chroma, low delay
            if bits.read(1):
                bits.read(MPEG4_VBV_BITS)
        bits.read(2 + 1)  # shape
        self._time_bits = max(1, (bits.read(16) - 1).bit_length())


@dataclasses.dataclass(frozen=True)
class _Av1Unit:
    kind: int
    spatial_layer: int
    payload: bytes


def _av1_units(packet: bytes) -> Iterator[_Av1Unit]:
    """The units of a packet, up to the first damaged one."""
    position = 0
    while position < len(packet):
        header = packet[position]
        position += 1
        spatial_layer = 0
        if header & OBU_HAS_EXTENSION and position < len(packet):
            spatial_layer = packet[position] >> 3 & 3
            position += 1
        size = len(packet) - position
        if header & OBU_HAS_SIZE:
            size, position = _leb128(packet, position)
        yield _Av1Unit(header >> 3 & 15, spatial_layer, packet[position : position + size])
        position += size


def _leb128(data: bytes, position: int) -> tuple[int, int]:
    """A number of variable length, and where it ends: AV1 bitstream specification, section 4.10.5."""
    value = 0
    for i, byte in enumerate(data[position : position + LEB128_BYTES]):
        value |= (byte & 0x7F) << 7 * i
        if not byte & 0x80:
            return value, position + i + 1
    return 0, len(data)


class _Bits:
    """Reads bits in order, starting at the first. Bits after the end are 0."""

    def __init__(self, data: bytes):
        self._data, self._position = data, 0

    @property
    def at_end(self) -> bool:
        return self._position >= 8 * len(self._data)

    def read(self, num_bits: int) -> int:
        """The next bits as a number, the first one being the highest."""
        value = 0
        for _ in range(num_bits):
            byte = self._data[self._position // 8] if self._position // 8 < len(self._data) else 0
            value = value << 1 | byte >> 7 - self._position % 8 & 1
            self._position += 1
        return value
