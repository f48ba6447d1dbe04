"""Opens videos and images so that a hostile file cannot open anything else and cannot exceed a time limit.

All media are opened here: `tests/data_pipelines/media/test_opening.py` lists the callers. Formats that name other
files or addresses (playlists, stream descriptions) and formats that start other programs are not on the lists.
"""

import time
import warnings
from typing import BinaryIO

import av
from PIL import Image

from data_pipelines.media import source_file
from data_pipelines.media.source_file import MediaError

MAX_DECODE_S = 3600  # per file, including all processing of its frames; this project's choice

# FFmpeg's names of the formats that contain the video itself (libavformat/allformats.c).
CONTAINERS = (
    "3dostr", "4xm", "amv", "anm", "apng", "apv", "argo_brp", "asf", "asf_o", "av1", "avi", "avs", "avs2", "avs3",
    "bethsoftvid", "bfi", "bink", "bmv", "c93", "cavsvideo", "cdg", "cdxl", "cine", "derf", "dfa", "dhav", "dirac",
    "dnxhd", "dsicin", "dv", "dxa", "ea", "evc", "film_cpk", "filmstrip", "fits", "flic", "flv", "frm", "gdv", "gif",
    "gxf", "h261", "h263", "h264", "hevc", "hnm", "idcin", "iff", "ifv", "ingenient", "ipmovie", "ipu", "iv8", "ivf",
    "ivr", "jpegxl_anim", "jv", "kux", "live_flv", "lmlm4", "lvf", "lxf", "m4v", "matroska", "mgsts", "mjpeg",
    "mjpeg_2000", "mm", "mods", "moflex", "mov", "mpeg", "mpegts", "mpegvideo", "mpjpeg", "msnwctcp", "mtv", "mv",
    "mvi", "mxf", "mxg", "nc", "nsv", "nut", "nuv", "obu", "ogg", "paf", "pdv", "pmp", "psxstr", "pva", "r3d", "rl2",
    "rm", "roq", "rpl", "sdr2", "ser", "sga", "siff", "smjpeg", "smk", "smush", "svag", "swf", "thp", "tiertexseq",
    "tmv", "ty", "usm", "vc1", "vc1test", "vividas", "vivo", "vmd", "vvc", "wc3movie", "webp", "wsvqa", "wtv", "xmv",
    "yop", "yuv4mpegpipe",
)  # fmt: skip
# Sound, text and single pictures. They contain no video; they are opened so that the error message can name the format.
NO_CONTAINERS = ("aac", "ac3", "aiff", "flac", "mp3", "tty", "wav")
PICTURES = tuple(sorted(name for name in av.formats_available if name.endswith("_pipe") and name != "image2pipe"))
FORMATS = ",".join(CONTAINERS + NO_CONTAINERS + PICTURES)
APNG_FPS = "10"  # for animated PNGs whose frames have no delay, as in browsers
NOT_LISTED = "Format not on whitelist"  # FFmpeg's message for a file of another format
# Pillow's names. Not included: EPS, because Pillow starts Ghostscript for it, and formats that Pillow cannot decode.
IMAGES = (
    "AVIF", "BLP", "BMP", "CUR", "DCX", "DDS", "DIB", "FITS", "FLI", "FTEX", "GBR", "GIF", "ICNS", "ICO", "IM", "IMT",
    "IPTC", "JPEG", "JPEG2000", "MCIDAS", "MSP", "PCD", "PCX", "PIXAR", "PNG", "PPM", "PSD", "QOI", "SGI", "SPIDER",
    "SUN", "TGA", "TIFF", "WEBP", "XBM", "XPM", "XVTHUMB",
)  # fmt: skip


class Deadline:
    """A time limit that starts when the object is made."""

    def __init__(self, limit_s: float | None = None):
        self._limit_s = MAX_DECODE_S if limit_s is None else limit_s
        self._ends = time.monotonic() + self._limit_s

    def check(self, what: str = "it") -> None:
        """Raises MediaError if the deadline has passed."""
        if time.monotonic() > self._ends:
            raise MediaError(f"{what} took longer than {self._limit_s} s to decode")


class _TimedFile:
    """A file that can be read until a deadline."""

    def __init__(self, file: BinaryIO, deadline: Deadline, name: str = ""):
        self._file, self._deadline, self.name = file, deadline, name

    def read(self, size: int = -1) -> bytes:
        """Like the `read` of the file, but raises MediaError after the deadline."""
        self._deadline.check()
        return self._file.read(size)

    def __getattr__(self, name: str):
        return getattr(self._file, name)


def open_container(file: BinaryIO, deadline: Deadline, name: str = "", **options: str) -> av.container.InputContainer:
    """Opens a video. No other file is read and nothing is downloaded, whatever the file contains.

    Args:
        file: a file that is open for reading bytes.
        deadline: reading after it raises an error.
        name: FFmpeg guesses the format by the ending of this name if the content does not decide it.
        **options: options of FFmpeg's format or of its decoders.

    Raises:
        MediaError: the deadline has passed.
        av.error.FFmpegError: FFmpeg does not recognise the file, or its format is not in `FORMATS`.
    """
    return av.open(
        _TimedFile(file, deadline, name),
        "r",
        options={"max_pixels": str(source_file.MAX_PIXELS), "default_fps": APNG_FPS, **options},
        container_options={"protocol_whitelist": "none", "format_whitelist": FORMATS},
        metadata_errors="replace",  # titles in any encoding
    )


def open_image(file: BinaryIO) -> Image.Image:
    """Opens an image; its pixels are not yet decoded.

    Raises:
        MediaError: the image is too large, or (later) decoding it takes too long.
        PIL.UnidentifiedImageError: its format is not in `IMAGES`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # Pillow's limit; this project's limit is lower
        image = Image.open(_TimedFile(file, Deadline()), formats=IMAGES)
    source_file.check_pixels(*image.size)
    return image
