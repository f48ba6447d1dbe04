"""Opens videos and images for reading, so that a hostile file can open nothing else and ends within a time limit.

All media are opened here: `tests/data_pipelines/media/test_opening.py` has the list of places. Formats that name other
files or addresses (playlists, descriptions of streams) and formats that start other programs are not on the lists.
"""

import time
import warnings
from typing import BinaryIO

import av
from PIL import Image

from data_pipelines.media import source_file
from data_pipelines.media.source_file import MediaError

MAX_DECODE_S = 3600  # of one file, all that is done with its frames included: this project's choice

# FFmpeg's names of the formats that hold a video of their own (libavformat/allformats.c).
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
# Sound, text and single pictures: they hold no video, and their names say so in the reason.
NO_CONTAINERS = ("aac", "ac3", "aiff", "flac", "mp3", "tty", "wav")
PICTURES = tuple(sorted(name for name in av.formats_available if name.endswith("_pipe") and name != "image2pipe"))
FORMATS = ",".join(CONTAINERS + NO_CONTAINERS + PICTURES)
APNG_FPS = "10"  # of animated PNGs whose frames have no delay, as browsers show them
NOT_LISTED = "Format not on whitelist"  # FFmpeg's word for a file of another format
# Pillow's names. Left out: EPS, for which it starts Ghostscript, and formats that it knows by name alone.
IMAGES = (
    "AVIF", "BLP", "BMP", "CUR", "DCX", "DDS", "DIB", "FITS", "FLI", "FTEX", "GBR", "GIF", "ICNS", "ICO", "IM", "IMT",
    "IPTC", "JPEG", "JPEG2000", "MCIDAS", "MSP", "PCD", "PCX", "PIXAR", "PNG", "PPM", "PSD", "QOI", "SGI", "SPIDER",
    "SUN", "TGA", "TIFF", "WEBP", "XBM", "XPM", "XVTHUMB",
)  # fmt: skip


class Deadline:
    """A time limit that begins now."""

    def __init__(self, limit_s: float | None = None):
        self._limit_s = MAX_DECODE_S if limit_s is None else limit_s
        self._ends = time.monotonic() + self._limit_s

    def check(self, what: str = "it") -> None:
        """Raises MediaError if the time is over."""
        if time.monotonic() > self._ends:
            raise MediaError(f"{what} took longer than {self._limit_s} s to decode")


class _TimedFile:
    """A file that can be read until a deadline."""

    def __init__(self, file: BinaryIO, deadline: Deadline, name: str = ""):
        self._file, self._deadline, self.name = file, deadline, name

    def read(self, size: int = -1) -> bytes:
        """As that of the file."""
        self._deadline.check()
        return self._file.read(size)

    def __getattr__(self, name: str):
        return getattr(self._file, name)


def open_container(file: BinaryIO, deadline: Deadline, name: str = "", **options: str) -> av.container.InputContainer:
    """Opens a video. No other file is read and nothing is fetched, whatever it says.

    Args:
        file: opened to read bytes.
        deadline: reading is an error after it.
        name: FFmpeg guesses by its ending where the content leaves it open.
        **options: of FFmpeg's format or of its decoders.

    Raises:
        MediaError: the time is over.
        av.error.FFmpegError: FFmpeg does not know what it is, or its format is none of `FORMATS`.
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
        MediaError: it is too large, or, later, takes too long to decode.
        PIL.UnidentifiedImageError: it is none of `IMAGES`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # Pillow's limit; ours is below it
        image = Image.open(_TimedFile(file, Deadline()), formats=IMAGES)
    source_file.check_pixels(*image.size)
    return image
