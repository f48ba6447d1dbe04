"""Archives are read in place: whatever their members are called or point to, nothing outside is read or written."""

import io
import os
import tarfile

import pytest
from etils import epath

from data_pipelines import archives, files
from data_pipelines.builders import imagenet21k

SYNSET, SECRET, IMAGE = "n00000001", b"not for a data set", b"an image"
REGULAR = ["../../up.jpg", "/absolute.jpg", "a/../../../b.jpg", "..", "a/..", ".", "c.jpg\n", "~/d.jpg", "a" * 300]


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


@pytest.fixture
def source(tmp_path):
    """A folder with one hostile tar, beside a file that nothing should reach."""
    (tmp_path / "secret.jpg").write_bytes(SECRET)
    (tmp_path / "source").mkdir()
    with tarfile.open(tmp_path / "source" / f"{SYNSET}.tar", "w") as tar:
        for name in REGULAR:
            tar.addfile(member(name, size=len(IMAGE)), io.BytesIO(IMAGE))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            for target in ("../../secret.jpg", str(tmp_path / "secret.jpg")):
                tar.addfile(member(f"link{len(target)}.jpg", kind, target))
        for kind in (tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
            tar.addfile(member("device.jpg", kind))
    return epath.Path(tmp_path / "source")


def test_links_and_devices_are_no_images_and_names_lead_nowhere(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = everything(tmp_path)
    listing = imagenet21k.find(source, ("train", "validation"))
    items = [item for items in listing.splits.values() for item in items]
    assert sorted(item.path.partition(".tar/")[2] for item in items) == sorted(name.rstrip("/") for name in REGULAR)
    read = 0
    for item in items:
        try:
            with files.local(source / item.archive, item.path, item.span) as path:
                assert os.path.basename(path) and tmp_path not in epath.Path(path).parents
                read += 1
                with open(path, "rb") as file:
                    assert file.read() == IMAGE
        except OSError:  # names that no file can have
            assert item.path.rpartition("/")[2] in (".", "..", "a" * 300)
    assert read == len(REGULAR) - 4
    assert everything(tmp_path) == before


def test_a_member_that_claims_more_than_the_archive_has_is_refused(source):
    path = source / f"{SYNSET}.tar"
    info = member("huge.jpg", size=1 << 40)
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + IMAGE)
    with pytest.raises(
        archives.DamagedArchiveError, match=rf"{SYNSET}\.tar is cut off or damaged: unexpected end of data"
    ):
        imagenet21k.find(source, ("train",))


def everything(root) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}
