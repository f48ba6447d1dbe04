"""The file that a video or an image is read from: checks that it is a regular file, checks size limits, hashes it."""

import functools
import hashlib
import os
import stat
from typing import BinaryIO

MAX_PIXELS = 1 << 26  # per picture, 8192 x 8192: with more, a small file could take all of a host's memory


class MediaError(Exception):
    """A file cannot be stored. The message is the reason."""


def open_regular(path: str) -> BinaryIO:
    """Opens a file to read its bytes.

    Raises:
        MediaError: the file is empty, or not a regular file: a folder, or a pipe, whose reading may never end.
        OSError: the file is missing, or reading it is not permitted.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise MediaError("it is not a regular file")
    if not status.st_size:
        raise MediaError("it is empty")
    return open(path, "rb")


def check_pixels(width_px: int, height_px: int) -> None:
    """Raises MediaError if a picture is too large to be decoded."""
    if width_px * height_px > MAX_PIXELS:
        raise MediaError(f"its pictures have {width_px} x {height_px} pixels, more than {MAX_PIXELS} in all")


def sha256(path: str, cut: tuple[float, float] | None = None) -> str:
    """The hash of a file's bytes, in hexadecimal; of a part of it, of these bytes and the part's start and end."""
    status = os.stat(path)
    whole = _sha256(path, status.st_mtime_ns, status.st_size)
    return whole if cut is None else hashlib.sha256(f"{whole}{fragment(cut)}".encode()).hexdigest()


@functools.lru_cache(maxsize=4)  # the parts of a video are read one after another
def _sha256(path: str, mtime_ns: int, size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fragment(cut: tuple[float, float]) -> str:
    """What follows the name of a file to name a part of it: #t=START,END in seconds (W3C, Media Fragments URI 1.0)."""
    return f"#t={cut[0]:g},{cut[1]:g}" if max(cut) < 1e4 else f"#t={cut[0]:.3f},{cut[1]:.3f}"
