"""ImageNet-21k (image-net.org: winter21 with 19,167 synsets, fall11 with 21,841): one tar or one folder a synset.

`nXXXXXXXX.tar` as they come out of winter21_whole.tar.gz are read in place, `nXXXXXXXX/` folders as well. A label is a
synset's place in their sorted names. The publisher has no validation split: here it is one image in a hundred, chosen
by a hash of its file name, so that it is the same from tars and folders, now and in any later preparation.
"""

import concurrent.futures
import re
import tarfile
import zlib
from collections.abc import Iterator

from etils import epath

from data_pipelines import files
from data_pipelines.prepare import base, publisher
from data_pipelines.prepare.listing import Item, Listing

SYNSET = re.compile(r"(n\d{8})(\.tar)?")
VALIDATION_ONE_IN = 100  # this project's choice
LISTING_THREADS = 16  # wait for the disk, not for the CPU


class Builder(base.ImageFiles, publisher.PublisherBuilder, skip_registration=True):
    """ImageNet-21k: images of WordNet's nouns."""

    name = "imagenet21k"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "nXXXXXXXX.tar of each synset, or a folder nXXXXXXXX with its images"

    def _list(self, source):
        return find(source, self._splits)


def find(source: epath.Path, splits: tuple[str, ...]) -> Listing:
    """Finds the synsets and their images.

    Raises:
        FileNotFoundError: there are none.
        ValueError: there is no such split, or a synset is there twice, as a tar and as a folder.
    """
    if "test" in splits:
        raise ValueError("ImageNet-21k has no test split; the validation split is a share of its images")
    synsets = _synsets(source)
    with concurrent.futures.ThreadPoolExecutor(LISTING_THREADS) as pool:
        items = [item for part in pool.map(lambda path: list(_images(source, path)), synsets.values()) for item in part]
    held_out = [is_validation(item.path) for item in items]
    listing = Listing({}, tuple(synsets))
    for split in splits:
        of_split = split == "validation"
        listing.splits[split] = [item for item, held in zip(items, held_out, strict=True) if held == of_split]
    return listing


def is_validation(path: str) -> bool:
    """Whether an image is in the validation split."""
    return zlib.crc32(path.rpartition("/")[2].encode()) % VALIDATION_ONE_IN == 0


def _synsets(source: epath.Path) -> dict[str, str]:
    """Synset -> its tar or folder, sorted; they stand in the source folder, or in one folder of it."""
    for folder in (source, *(path for path in sorted(source.iterdir()) if path.is_dir())):
        paths = sorted(path for path in folder.iterdir() if SYNSET.fullmatch(path.name))
        if paths:
            return _by_name(source, paths)
    raise FileNotFoundError(f"there are no synsets, nXXXXXXXX.tar or nXXXXXXXX/, in {source} or in a folder of it")


def _by_name(source: epath.Path, paths: list[epath.Path]) -> dict[str, str]:
    synsets = {}
    for path in paths:
        synset = _synset(path.name)
        if synset in synsets:
            raise ValueError(f"{synset} is there twice, as a tar and as a folder: {path.parent}; remove one of them")
        synsets[synset] = path.relative_to(source).as_posix()
    return synsets


def _synset(name: str) -> str:
    """The synset of a file or folder that SYNSET has chosen."""
    match = SYNSET.fullmatch(name)
    assert match
    return match[1]


def _images(source: epath.Path, path: str) -> Iterator[Item]:
    """The images of a synset."""
    synset = _synset(path.rpartition("/")[2])
    if not path.endswith(".tar"):
        yield from (Item(f"{path}/{name}", synset) for name in files.walk(source / path))
        return
    with (source / path).open("rb") as file, tarfile.open(fileobj=file) as tar:
        for member in tar:
            if member.isfile():
                span = (member.offset_data, member.size)
                yield Item(f"{path}/{member.name}", synset, archive=path, span=span)
