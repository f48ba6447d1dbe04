"""Whether a file ends where its format says, for the formats whose end FFmpeg does not check.

A file that was cut off there decodes without an error, as if it had been shorter.
"""

import os
import struct
from typing import BinaryIO

from data_pipelines.builders.source_file import MediaError

GIF_IMAGE, GIF_EXTENSION, GIF_TRAILER = b",", b"!", b";"  # GIF89a, sections 20, 23 and 27
GIF_SCREEN_BYTES, GIF_IMAGE_BYTES = 13, 10  # with the header before; both may be followed by colours
FLV_TAG_HEADER_BYTES = 11  # Adobe Flash Video File Format 10.1, annex E.4.1
OGG_PAGE = struct.Struct("<4sBBqIIIB")  # RFC 3533, section 6: magic, version, flags, position, ..., number of segments
OGG_LAST_PAGE = 0x04  # flag: the last page of a stream
OGG_MAX_PAGE_BYTES = 65307
TS_PACKET_BYTES = (188, 192, 204)  # ISO/IEC 13818-1; with the time code of Blu-ray; with error correction
TS_SYNC = 0x47
ASF_HEADER_BYTES = 1 << 16
ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # Advanced Systems Format, section 3.2
ASF_BROADCAST = 0x01  # flag: written while it was sent, so its size was not known


def check(file: BinaryIO, format_name: str) -> None:
    """Compares a file's end with what its format puts there.

    Args:
      file: opened to read bytes.
      format_name: of the container, as FFmpeg calls it.

    Raises:
      MediaError: it was cut off, or something in it does not let its end be found.
    """
    if format_name in CHECKS:
        CHECKS[format_name](file, file.seek(0, os.SEEK_END))


def _check_gif(file: BinaryIO, size: int) -> None:
    """Walks over all blocks: where one is damaged, FFmpeg takes all that follows for a part of it."""
    position = GIF_SCREEN_BYTES + _gif_table_bytes(_bytes_at(file, GIF_SCREEN_BYTES - 3, 1))
    while (kind := _bytes_at(file, position, 1)) != GIF_TRAILER:
        if kind == GIF_IMAGE:
            position += GIF_IMAGE_BYTES + _gif_table_bytes(_bytes_at(file, position + GIF_IMAGE_BYTES - 1, 1))
            position += 1  # how many bits its codes have
        elif kind == GIF_EXTENSION:
            position += 2
        else:
            raise MediaError(f"it has a damaged block at byte {position}" if kind else "it stops before its trailer")
        while length := _bytes_at(file, position, 1):
            position += 1 + length[0]
            if not length[0]:
                break


def _gif_table_bytes(flags: bytes) -> int:
    """Of the colours that follow, if the flags have bit 7."""
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
    file.seek(max(0, size - OGG_MAX_PAGE_BYTES))
    tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < OGG_PAGE.size:
        raise MediaError("it stops inside an Ogg page")
    *_, num_segments = fields = OGG_PAGE.unpack_from(page)
    segments = page[OGG_PAGE.size : OGG_PAGE.size + num_segments]
    if len(segments) < num_segments or len(page) < OGG_PAGE.size + num_segments + sum(segments):
        raise MediaError("it stops inside an Ogg page")
    if not fields[2] & OGG_LAST_PAGE:
        raise MediaError("it stops before the last page of its Ogg streams")


def _check_ts(file: BinaryIO, size: int) -> None:
    file.seek(0)
    head = file.read(16 * max(TS_PACKET_BYTES))
    for packet_bytes in TS_PACKET_BYTES:
        first = head.find(TS_SYNC, 0, packet_bytes)
        if first >= 0 and set(head[first::packet_bytes]) == {TS_SYNC} and size % packet_bytes:
            raise MediaError("it stops inside a packet of its transport stream")


def _check_asf(file: BinaryIO, size: int) -> None:
    file.seek(0)
    head = file.read(ASF_HEADER_BYTES)
    properties = head[head.find(ASF_FILE_PROPERTIES) :]
    announced, flags = struct.unpack_from("<40xQ40xI", properties)
    if not flags & ASF_BROADCAST:
        _check_announced(size, announced)


def _check_announced(size: int, announced: int) -> None:
    if size < announced:
        raise MediaError(f"it stops after {size} of {announced} bytes")


CHECKS = {
    "asf": _check_asf,
    "avi": _check_avi,
    "flv": _check_flv,
    "gif": _check_gif,
    "mpegts": _check_ts,
    "ogg": _check_ogg,
}
