"""Archives are read in place, whole or not at all: one that is cut anywhere is refused by name."""

import gzip
import io
import zipfile

import pytest
from etils import epath

from data_pipelines import archives, files
from tests.data_pipelines.publishers import tar_of

CONTENTS = {"a.jpg": b"first", "b/c.jpg": b"x" * 700, "d.txt": b""}
PART = "20bn-something-something-v2-{:02d}"


@pytest.fixture(autouse=True)
def nothing_stays_open():
    yield
    archives.close_kept()


def write(root, name, data) -> epath.Path:
    (root / name).write_bytes(data)
    return epath.Path(root / name)


def read_all(path) -> dict[str, bytes]:
    """Name -> bytes of all members, through the copies that decoders get."""
    found = {}
    for member in archives.members(path):
        with files.local(path, member.name, (member.start, member.size)) as copy, open(copy, "rb") as file:
            found[member.name] = file.read()
    return found


def without_padding(tar: bytes) -> bytes:
    """A tar up to its end, two blocks of zeros, without the zeros that follow."""
    return tar[: (len(tar.rstrip(b"\0")) + 511) // 512 * 512 + 1024]


def zipped(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "compressed"])
def test_a_tar_is_what_is_in_it_whatever_its_name(tmp_path, name, pack):
    assert read_all(write(tmp_path, name, pack(tar_of(CONTENTS)))) == CONTENTS


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "compressed"])
def test_tars_in_a_tar_are_read_as_well(tmp_path, pack):
    inner = {f"n{i:08d}_{i}.JPEG": bytes([i]) * (i * 300) for i in range(4)}
    outer = {
        "whole/n00000001.tar": tar_of(inner),
        "whole/readme.txt": b"hello",
        "whole/n00000002.tar": tar_of(CONTENTS),
    }
    expected = {f"whole/n00000001.tar/{name}": data for name, data in inner.items()} | {"whole/readme.txt": b"hello"}
    expected |= {f"whole/n00000002.tar/{name}": data for name, data in CONTENTS.items()}
    path = write(tmp_path, "winter21_whole.tar.gz", pack(tar_of(outer)))
    assert read_all(path) == expected
    for member in reversed(archives.members(path)):  # against their order: slower, and the same
        assert archives.read(path, member.start, member.size) == expected[member.name]


@pytest.mark.parametrize("form", ["parts", "parts in ZIP files", "parts that are only called .zip"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "compressed"])
def test_an_archive_in_parts_is_one(tmp_path, form, pack):
    data, suffix = pack(without_padding(tar_of(CONTENTS))), "" if form == "parts" else ".zip"
    step = len(data) // 3 + 1
    for number in range(3):
        part = data[number * step : (number + 1) * step]
        name = PART.format(number)
        write(tmp_path, name + suffix, zipped(name, part) if form == "parts in ZIP files" else part)
    first = epath.Path(tmp_path / (PART.format(0) + suffix))
    assert archives.is_archive(first.name) and not archives.is_archive(PART.format(1) + suffix)
    assert read_all(first) == CONTENTS
    last = epath.Path(tmp_path / (PART.format(2) + suffix))
    middle = epath.Path(tmp_path / (PART.format(1) + suffix))
    kept, _ = last.read_bytes(), last.unlink()
    with pytest.raises(archives.DamagedArchiveError, match=PART.format(0)):
        archives.members(first)
    last.write_bytes(kept)
    middle.unlink()
    with pytest.raises(archives.DamagedArchiveError, match=rf"the part before {PART.format(2)}"):
        archives.members(first)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "compressed"])
def test_a_tar_that_is_cut_anywhere_is_refused_by_name(tmp_path, pack):
    """Anywhere up to its end, two blocks of zeros: what tar pads behind them is nothing that could be missed."""
    contents = {"a.jpg": b"first", "b.tar": tar_of({"c.jpg": b"second"}), "d.jpg": b"x" * 600}
    tar = tar_of(contents)
    end = len(without_padding(tar))
    data = pack(tar)
    for size in range(len(data)) if pack is gzip.compress else (*range(0, end, 97), *range(end - 1030, end)):
        path = write(tmp_path, "cut.tar", data[:size])
        with pytest.raises(archives.DamagedArchiveError, match=r"cut\.tar.* (is cut off|damaged)"):
            archives.members(path)
    assert len(archives.members(write(tmp_path, "cut.tar", pack(tar[:end])))) == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tar_of(CONTENTS) + tar_of(CONTENTS), r"x\.tar continues after its end"),
        (tar_of(CONTENTS) + bytes(2 << 20), r"x\.tar has too many zeros after its end: it was not downloaded"),
        (gzip.compress(tar_of(CONTENTS)) + b"garbage", r"x\.tar is cut off or damaged: Not a gzipped file"),
        (tar_of({"in.tar": tar_of(CONTENTS)[:1024]}), r"x\.tar/in\.tar is cut off or damaged"),
        (tar_of({"in.tar": b"no tar"}), r"x\.tar is cut off or damaged"),
        (b"", r"x\.tar is cut off or damaged: empty file"),
        (b"not a tar" * 100, r"x\.tar is cut off or damaged"),
    ],
)
def test_what_is_no_whole_tar_is_refused_by_name(tmp_path, data, message):
    with pytest.raises(archives.DamagedArchiveError, match=message):
        archives.members(write(tmp_path, "x.tar", data))


def test_tars_in_tars_in_tars_come_to_an_end(tmp_path):
    data = tar_of(CONTENTS)
    for _ in range(30):
        data = tar_of({"in.tar": data})
    (found,) = archives.members(write(tmp_path, "deep.tar", data))
    assert found.name == "in.tar/in.tar/in.tar/in.tar/in.tar"


def test_what_an_archive_lost_meanwhile_is_noticed(tmp_path):
    path = write(tmp_path, "a.tar", tar_of(CONTENTS))
    (_, member, _) = archives.members(path)
    path.write_bytes(path.read_bytes()[: member.start + 10])
    with pytest.raises(archives.DamagedArchiveError, match=r"a\.tar is cut off: 10 of 700 bytes are left"):
        archives.read(path, member.start, member.size)
    packed = write(tmp_path, "a.tar.gz", gzip.compress(tar_of(CONTENTS)))
    assert archives.read(packed, member.start, member.size) == CONTENTS["b/c.jpg"]
    packed.write_bytes(gzip.compress(tar_of({"z": b"other"})))  # another file under the same name
    assert archives.read(packed, 512, 5) == b"other"


def test_commands_that_unpack_are_named():
    sentence = archives.how_to_unpack(["a/Moments.zip", "b/UCF101.rar", "c.txt"])
    assert sentence.startswith(". There are archives that are not unpacked; unpack them, for example by: ")
    assert sentence.endswith("unzip -q 'a/Moments.zip', and 1 more like it")
    assert archives.how_to_unpack(["c.txt"]) == ""
