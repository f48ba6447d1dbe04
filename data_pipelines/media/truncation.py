"""Whether a file is complete, for the formats in which FFmpeg does not check this.

In these formats a file that is cut off, or that lost a part, decodes without an error, as if it were shorter.
"""

import itertools
import os
import struct
from typing import BinaryIO

from data_pipelines.media.source_file import MediaError

GIF_IMAGE, GIF_EXTENSION, GIF_TRAILER = b",", b"!", b";"  # GIF89a, sections 20, 23 and 27
GIF_SCREEN_BYTES, GIF_IMAGE_BYTES = 13, 10  # including the header; a colour table may follow both
FLV_TAG_HEADER_BYTES = 11  # Adobe Flash Video File Format 10.1, annex E.4.1
OGG_MAGIC = b"OggS"
OGG_PAGE = struct.Struct("<4sBBqIIIB")  # RFC 3533, section 6; magic, version, flags, position, stream, ...
OGG_LAST_PAGE = 0x04  # flag: the last page of a stream
TS_PACKET_BYTES = (188, 192, 204)  # ISO/IEC 13818-1; with the time code of Blu-ray; with error correction
TS_SYNC = b"G"
TS_PACKETS_AT_ONCE = 1 << 14
MP4_BOXES = (  # top-level boxes of a file: ISO/IEC 14496-12, table 1; `wide` is from QuickTime
    b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"imda", b"mfra", b"sidx", b"ssix", b"prft", b"emsg", b"meta", b"meco",
    b"pdin", b"free", b"skip", b"wide", b"uuid",
)  # fmt: skip
BARE_ZEROS = 16  # at the end of a stream of H.264 or its successors; no encoder writes them there
ASF_HEADER_BYTES = 1 << 16
ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # Advanced Systems Format, section 3.2
IVF_HEADER_BYTES = 32  # https://wiki.multimedia.cx/index.php/Duck_IVF
IVF_FRAME = struct.Struct("<IQ")  # bytes, time stamp
IVF_UNKNOWN = 0xFFFFFFFF  # FFmpeg writes this first, and replaces it by the number at the end
IVF_LAST_FRAME = 1.5  # maximum duration, relative to the longest other frame; twice as long would mean a missing frame
ASF_BROADCAST = 0x01  # flag: written during the broadcast, so the size was not known


def check(file: BinaryIO, format_name: str) -> None:
    """Checks that a file ends as its format requires.

    Args:
        file: a file that is open for reading bytes.
        format_name: FFmpeg's name of the container format.

    Raises:
        MediaError: the file is cut off, or damage in it prevents finding its end.
    """
    if format_name in CHECKS:
        CHECKS[format_name](file, file.seek(0, os.SEEK_END))


def _check_gif(file: BinaryIO, size: int) -> None:
    """Checks all blocks: FFmpeg treats everything after a damaged block as part of that block."""
    position = GIF_SCREEN_BYTES + _gif_table_bytes(_bytes_at(file, GIF_SCREEN_BYTES - 3, 1))
    while (kind := _bytes_at(file, position, 1)) != GIF_TRAILER:
        if kind == GIF_IMAGE:
            position += GIF_IMAGE_BYTES + _gif_table_bytes(_bytes_at(file, position + GIF_IMAGE_BYTES - 1, 1))
            position += 1  # the byte with the number of bits per code
        elif kind == GIF_EXTENSION:
            position += 2
        else:
            raise MediaError(f"it has a damaged block at byte {position}" if kind else "it stops before its trailer")
        while length := _bytes_at(file, position, 1):
            position += 1 + length[0]
            if not length[0]:
                break


def _gif_table_bytes(flags: bytes) -> int:
    """Size of the colour table that follows; 0 if bit 7 of the flags is not set."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _bytes_at(file: BinaryIO, position: int, length: int) -> bytes:
    file.seek(position)
    return file.read(length)


def _check_avi(file: BinaryIO, size: int) -> None:
    file.seek(4)
    _check_announced(size, 8 + int.from_bytes(file.read(4), "little"))


def _check_flv(file: BinaryIO, size: int) -> None:
    file.seek(size - 4)
    last_tag_bytes = int.from_bytes(file.read(4), "big")
    file.seek(max(0, size - 4 - last_tag_bytes + 1))
    if FLV_TAG_HEADER_BYTES + int.from_bytes(file.read(3), "big") != last_tag_bytes:
        raise MediaError("it stops inside an FLV tag")


def _check_ogg(file: BinaryIO, size: int) -> None:
    """Checks all pages: FFmpeg does not report a page that is lost or that it does not recognise."""
    position, flags = 0, 0
    next_of: dict[int, int] = {}  # stream -> number of its next page
    while position < size:
        header = _bytes_at(file, position, OGG_PAGE.size)
        if len(header) < OGG_PAGE.size:
            raise MediaError("it stops inside an Ogg page")
        magic, _, flags, _, stream, number, _, num_segments = OGG_PAGE.unpack(header)
        if magic != OGG_MAGIC or number != next_of.get(stream, number):
            raise MediaError(f"an Ogg page is damaged or missing at byte {position}")
        next_of[stream] = number + 1
        position += OGG_PAGE.size + num_segments + sum(file.read(num_segments))
    if position > size:
        raise MediaError("it stops inside an Ogg page")
    if not flags & OGG_LAST_PAGE:
        raise MediaError("it stops before the last page of its Ogg streams")


def _check_ts(file: BinaryIO, size: int) -> None:
    """Checks the first byte of each packet: FFmpeg skips data that is not a packet, and does not report zeros."""
    packet_bytes, first = _ts_packets(_bytes_at(file, 0, 16 * max(TS_PACKET_BYTES)))
    position = file.seek(first)
    while syncs := file.read(packet_bytes * TS_PACKETS_AT_ONCE)[::packet_bytes]:
        if num_lost := len(syncs.lstrip(TS_SYNC)):
            damaged = position + (len(syncs) - num_lost) * packet_bytes
            raise MediaError(f"it has a damaged packet of its transport stream at byte {damaged}")
        position += len(syncs) * packet_bytes
    if size % packet_bytes:
        raise MediaError("it stops inside a packet of its transport stream")


def _ts_packets(head: bytes) -> tuple[int, int]:
    """The length of the packets and the position of the first one that fit best."""
    candidates = [(length, first) for length in TS_PACKET_BYTES for first in range(length)]
    return max(candidates, key=lambda at: head[at[1] :: at[0]].count(TS_SYNC) * at[0])


def _check_mp4(file: BinaryIO, size: int) -> None:
    """Checks the boxes of a fragmented file, which has no index: FFmpeg stops at a damaged box."""
    position, is_fragmented = 0, False
    while position < size:
        length, kind = _mp4_box(_bytes_at(file, position, 16), size - position)
        if is_fragmented and (kind not in MP4_BOXES or position + length > size):
            raise MediaError(f"it has a damaged box at byte {position}")
        is_fragmented |= kind == b"moov" and b"mvex" in _bytes_at(file, position, length)
        position += length


def _mp4_box(header: bytes, left: int) -> tuple[int, bytes]:
    """Length and type of a box. Data that is not a box extends to the end of the file."""
    length = int.from_bytes(header[:4], "big")
    if length == 1:
        length = int.from_bytes(header[8:], "big")
    return (length if length >= 8 else left), header[4:8]


def _check_bare(file: BinaryIO, size: int) -> None:
    if not any(_bytes_at(file, max(0, size - BARE_ZEROS), BARE_ZEROS)):
        raise MediaError("it ends in zeros")


def _check_asf(file: BinaryIO, size: int) -> None:
    file.seek(0)
    head = file.read(ASF_HEADER_BYTES)
    properties = head[head.find(ASF_FILE_PROPERTIES) :]
    announced, flags = struct.unpack_from("<40xQ40xI", properties)
    if not flags & ASF_BROADCAST:
        _check_announced(size, announced)


def _check_ivf(file: BinaryIO, size: int) -> None:
    """Checks all frames against the number in the header, which is 0 or all ones if it was not known.

    The number is either the count or the duration of the frames, depending on the writer; FFmpeg reads both.
    """
    header_bytes, announced = struct.unpack_from(
        "<6xH16xI", _bytes_at(file, 0, IVF_HEADER_BYTES).ljust(IVF_HEADER_BYTES)
    )
    position, stamps = header_bytes, []
    while position < size:
        frame = _bytes_at(file, position, IVF_FRAME.size)
        if len(frame) < IVF_FRAME.size:
            raise MediaError("it stops inside the header of a frame")
        length, stamp = IVF_FRAME.unpack(frame)
        position += IVF_FRAME.size + length
        stamps.append(stamp)
    if position > size:
        raise MediaError(f"it stops after {len(stamps) - 1} frames, inside the next one")
    if announced not in (0, IVF_UNKNOWN) and len(stamps) < announced and not _lasts(sorted(stamps), announced):
        raise MediaError(f"it stops after {len(stamps)} frames, but announces {announced} frames or units of time")


def _lasts(stamps: list[int], announced: int) -> bool:
    """Whether the frames can last `announced` units in total, with a last frame about as long as the others at most."""
    gaps = [after - before for before, after in itertools.pairwise(stamps)]
    span = sum(gaps)
    return span <= announced <= span + IVF_LAST_FRAME * max(gaps, default=0)


def _check_announced(size: int, announced: int) -> None:
    if size < announced:
        raise MediaError(f"it stops after {size} of {announced} bytes")


CHECKS = {
    "asf": _check_asf,
    "avi": _check_avi,
    "flv": _check_flv,
    "gif": _check_gif,
    "h264": _check_bare,
    "hevc": _check_bare,
    "ivf": _check_ivf,
    "mov,mp4,m4a,3gp,3g2,mj2": _check_mp4,
    "mpegts": _check_ts,
    "ogg": _check_ogg,
    "vvc": _check_bare,
}
