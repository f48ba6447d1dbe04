"""Reads archives without unpacking them: tars, plain or compressed, whole or in parts, and tars inside tars.

The archives that publishers distribute, with sources:

- ImageNet-21k: winter21_whole.tar.gz, a compressed tar with a plain tar per synset; imagenet21k_resized.tar.gz, the
  processed release, a compressed tar of folders (image-net.org/download-images; github.com/Alibaba-MIIL/ImageNet21K,
  dataset_preprocessing/processing_instructions.md).
- Kinetics: many compressed tars per split, SPLIT/*.tar.gz, and replacement_for_corrupted_k400.tgz
  (github.com/cvdfoundation/kinetics-dataset, k400_extractor.sh). One of them was a plain tar for some time, so the
  format is recognised by the content of a file and not by its name.
- Something-Something v2: one compressed tar, divided into parts 20bn-something-something-v2-00, -01, ...; each part is
  in a ZIP file of its own. Qualcomm has two parts today, and had twenty before
  (qualcomm.com/developer/software/something-something-v-2-dataset; github.com/open-mmlab/mmaction2/pull/1661). 20BN
  itself distributed the parts without ZIP files.

A plain tar can be read at any position. A compressed tar has to be read from its start. So each thread keeps its last
compressed archive open at the current position, and members in the order of the archive need one pass.
"""

import contextlib
import dataclasses
import gzip
import io
import re
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, cast

from etils import epath

from data_pipelines.escaping import escape

BLOCK_BYTES = 512
END_BYTES = 2 * BLOCK_BYTES  # of zeros, which end every tar (POSIX pax, "Archive end")
MAX_PADDING_BYTES = 1 << 20  # of zeros after the end; tar pads to 10 KiB, an incomplete download may have far more
MAX_DEPTH = 4  # of tars inside tars
READ_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
_FIRST_PART = re.compile(r"(?P<stem>20bn-[\w-]+-v\d+)-00(?P<suffix>\.zip)?")
_LATER_PART = re.compile(r"20bn-[\w-]+-v\d+-\d\d(\.zip)?")
_HOW_TO_UNPACK = {
    ".zip": "unzip -q {}", ".rar": "unrar x {}", ".7z": "7z x {}",
    ".tar.gz": "tar xzf {}", ".tgz": "tar xzf {}", ".tar": "tar xf {}",
}  # fmt: skip


class DamagedArchiveError(OSError):
    """An archive is incomplete or damaged. The message names the archive."""


@dataclasses.dataclass(frozen=True, slots=True)  # there may be millions
class Member:
    """A file in an archive.

    Attributes:
        name: its path in the archive; TAR/MEMBER for a file in a tar inside the archive.
        start: its first byte in the uncompressed archive.
        size: its number of bytes.
    """

    name: str
    start: int
    size: int


def is_archive(name: str) -> bool:
    """Whether a file name is that of an archive that can be read in place, or of the first part of one."""
    return name.lower().endswith((".tar", ".tar.gz", ".tgz")) or bool(_FIRST_PART.fullmatch(name.rpartition("/")[2]))


def how_to_unpack(paths: list[str]) -> str:
    """A sentence about archives among the files, with the commands that unpack them; "" if there are no archives."""
    commands = []
    for path in paths:
        suffix = next((suffix for suffix in _HOW_TO_UNPACK if path.lower().endswith(suffix)), "")
        if suffix and not _LATER_PART.fullmatch(path.rpartition("/")[2]):
            commands.append(_HOW_TO_UNPACK[suffix].format(f"'{escape(path)}'"))
    if not commands:
        return ""
    more = f", and {len(commands) - 1} more like it" if len(commands) > 1 else ""
    return f". There are archives that are not unpacked; unpack them, for example by: {commands[0]}{more}"


def members(path: epath.Path) -> list[Member]:
    """The files of an archive, and of the tars in it, in their order. Links and devices are skipped.

    A compressed archive is read to its end.

    Raises:
        DamagedArchiveError: the archive is cut off, its end is missing, or other data follow its end.
    """
    return [member for member, _ in members_with_contents(path, lambda name: False)]


def members_with_contents(
    path: epath.Path, is_wanted: Callable[[str], bool], most_bytes: int = READ_BYTES
) -> list[tuple[Member, bytes | None]]:
    """As `members`, with the contents of small files, read on the way.

    Args:
        path: the archive.
        is_wanted: name of a member -> whether to read it.
        most_bytes: a wanted member that is larger is not read.

    Raises:
        DamagedArchiveError: as in `members`.
    """
    found: list[tuple[Member, bytes | None]] = []
    with _named(path), _open(path) as file:
        for member in _members_of(file, escape(path)):
            data = None
            if member.size <= most_bytes and is_wanted(member.name):
                file.seek(member.start)
                data = file.read(member.size)
            found.append((member, data))
        _check_rest(file, escape(path))
    return found


def read(path: epath.Path, start: int, size: int) -> bytes:
    """Reads a range of bytes, such as a member, of the uncompressed archive.

    Raises:
        DamagedArchiveError: the archive ends before the end of the range.
    """
    with _named(path):
        data = _read_plain(path, start, size)
        data = _read_compressed(path, start, size) if data is None else data
    if len(data) < size:
        raise DamagedArchiveError(
            f"{escape(path)} is cut off: {len(data)} of {size} bytes are left from byte {start} on"
        )
    return data


# What the libraries raise for damaged bytes. The last ones come from impossible sizes and from nested headers.
_DAMAGE = (
    tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, NotImplementedError, RuntimeError,
    ValueError, OverflowError, MemoryError, RecursionError,
)  # fmt: skip


class _named:
    """A context manager that adds the archive's name to errors about damage."""

    def __init__(self, path: epath.Path):
        self._path = path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, _DAMAGE):
            raise DamagedArchiveError(
                f"{escape(self._path)} is cut off or damaged: {error}. Download or copy it again"
            ) from error


class _Window(io.RawIOBase):
    """A byte range of a file, as a file of its own."""

    def __init__(self, file: IO[bytes], start: int, size: int):
        self._file, self._start, self._size, self._at = file, start, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        self._file.seek(self._start + self._at)
        data = self._file.read(left if size < 0 else min(size, left))
        self._at += len(data)
        return data


class _Parts(io.RawIOBase):
    """Several files, concatenated to one."""

    def __init__(self, paths: list[epath.Path]):
        self._at = 0
        with contextlib.ExitStack() as opened:
            self._parts = [_open_part(path, opened) for path in paths]
            self._sizes = [part.seek(0, io.SEEK_END) for part in self._parts]
            self._opened = opened.pop_all()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: sum(self._sizes)}[whence] + offset
        return self._at

    def readinto(self, buffer) -> int:
        begin = 0
        for part, size in zip(self._parts, self._sizes, strict=True):
            if begin <= self._at < begin + size:
                part.seek(self._at - begin)
                data = part.read(min(len(buffer), begin + size - self._at))
                buffer[: len(data)] = data
                self._at += len(data)
                return len(data)
            begin += size
        return 0

    def close(self) -> None:
        self._opened.close()
        super().close()


def _open(path: epath.Path) -> IO[bytes]:
    """Opens an archive as a stream of its uncompressed bytes."""
    raw = _open_raw(path)
    head = raw.read(len(_GZIP))
    raw.seek(0)
    return cast(IO[bytes], _Gzip(raw)) if head == _GZIP else raw


class _Gzip(gzip.GzipFile):
    """A compressed file that also closes the underlying file."""

    def __init__(self, raw: IO[bytes]):
        self._raw_file = raw
        super().__init__(fileobj=raw, mode="rb")

    def close(self) -> None:
        super().close()
        self._raw_file.close()


def _open_raw(path: epath.Path) -> IO[bytes]:
    first = _FIRST_PART.fullmatch(path.name)
    if not first:
        return path.open("rb")
    parts = sorted(path.parent.glob(f"{first['stem']}-??{first['suffix'] or ''}"))
    for number, part in enumerate(parts):
        if part.name != f"{first['stem']}-{number:02d}{first['suffix'] or ''}":
            raise DamagedArchiveError(f"{escape(path)}: the part before {escape(part.name)} is missing; get all parts")
    return cast(IO[bytes], io.BufferedReader(_Parts(parts), READ_BYTES))


def _open_part(path: epath.Path, opened: contextlib.ExitStack) -> IO[bytes]:
    """Opens a part of an archive: a file, or the only file in a ZIP file. `opened` closes everything that is opened."""
    file = opened.enter_context(path.open("rb"))
    if file.read(2) != b"PK":
        return file
    archive = opened.enter_context(zipfile.ZipFile(file))
    inside = [info for info in archive.infolist() if not info.is_dir()]
    if len(inside) != 1:
        raise DamagedArchiveError(
            f"{escape(path)} has {len(inside)} files in it, but must have one: a part of an archive"
        )
    return opened.enter_context(archive.open(inside[0]))


def _members_of(file: IO[bytes], name: str, depth: int = 0) -> Iterator[Member]:
    """The files of a tar, including those of tars inside it. Checks the end of the tar."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in _headers(tar):
            if not member.isfile():
                continue
            if depth == MAX_DEPTH or not member.name.lower().endswith(".tar"):
                yield Member(member.name, member.offset_data, member.size)
                continue
            inner = cast(IO[bytes], _Window(file, member.offset_data, member.size))
            inside = f"{name}/{escape(member.name)}"
            for found in _members_of(inner, inside, depth + 1):
                yield Member(f"{member.name}/{found.name}", member.offset_data + found.start, found.size)
            _check_rest(inner, inside)
        file.seek(tar.offset)
        end = file.read(END_BYTES)
    if len(end) < END_BYTES or any(end):
        raise DamagedArchiveError(
            f"{name} is cut off or damaged at byte {tar.offset}: the two blocks of zeros that end a tar are missing. "
            "Download or copy it again"
        )


def _headers(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of a tar, without keeping them in memory. Checks that each comes after the previous one."""
    before = -1
    while (member := tar.next()) is not None:
        vars(tar)["members"].clear()
        if member.size < 0 or tar.offset <= before:
            raise tarfile.ReadError(f"a member of {member.size} bytes")
        before = tar.offset
        yield member


def _check_rest(file: IO[bytes], name: str) -> None:
    """Checks that only a few zeros follow the end of a tar, and the checksum of a compressed tar."""
    padding = 0
    while rest := file.read(READ_BYTES):
        padding += len(rest)
        if any(rest):
            raise DamagedArchiveError(f"{name} continues after its end: it is damaged, or another archive was appended")
        if padding > MAX_PADDING_BYTES:
            raise DamagedArchiveError(f"{name} has too many zeros after its end: it was not downloaded completely")


def _read_plain(path: epath.Path, start: int, size: int) -> bytes | None:
    """A range of bytes of a plain file; None if the file is compressed or in parts: then it is read from its start."""
    if _FIRST_PART.fullmatch(path.name):
        return None
    with path.open("rb") as file:
        if file.read(len(_GZIP)) == _GZIP:
            return None
        file.seek(start)
        return file.read(size)


_last = threading.local()  # the compressed archive that this thread keeps open, to continue at its position


def _read_compressed(path: epath.Path, start: int, size: int) -> bytes:
    status = path.stat()
    key = (str(path), status.length, status.mtime)
    if getattr(_last, "key", None) != key:
        close_kept()
        _last.file, _last.key = _open(path), key
    _last.file.seek(start)
    return _last.file.read(size)


def close_kept() -> None:
    """Closes the compressed archive that this thread keeps open."""
    if getattr(_last, "key", None) is not None:
        _last.file.close()
        _last.key = _last.file = None
