"""ImageNet-21k (image-net.org: winter21 with 19,167 synsets, fall11 with 21,841), as distributed or unpacked.

The builder reads `winter21_whole.tar.gz` and `imagenet21k_resized.tar.gz` without unpacking them, the `nXXXXXXXX.tar`
files from the first, and `nXXXXXXXX/` folders. They may be in the source folder or in several folders of it. All that
are found are used.

A label is the index of a synset in the sorted names of all synsets. The name of a class is its wnid. If the source
folder has `words.txt` of image-net.org, or another file of wnids and words, the name consists of both: "n02084071 dog,
domestic dog".

The processed release (github.com/Alibaba-MIIL/ImageNet21K, dataset_preprocessing/processing_script.sh) has the folders
`imagenet21k_train`, `imagenet21k_val` and `imagenet21k_small_classes`. If there is a folder whose name ends in "val",
its images are the validation split and all others are the training split. For the 10,450 classes of ImageNet-21K-P,
move `imagenet21k_small_classes` away. Otherwise the validation split is one image in a hundred, chosen by a hash of the
file name, so that tars and folders give the same split, now and in any later preparation.
"""

import concurrent.futures
import dataclasses
import re
import zlib
from collections.abc import Iterable, Iterator

from absl import logging
from etils import epath

from data_pipelines import archives, files
from data_pipelines.escaping import escape
from data_pipelines.prepare import base, publisher
from data_pipelines.prepare.listing import Item, Listing
from data_pipelines.sources import class_names

SYNSET = re.compile(r"(n\d{8})(\.tar)?")
IN_SYNSET = re.compile(r"(?P<holder>(?P<folder>(.*/)?)(?P<synset>n\d{8})(\.tar)?)/.+", re.DOTALL)  # a path
VALIDATION_FOLDER = re.compile(r"(.*[-_])?val(id|idation)?", re.IGNORECASE)
MAX_DEPTH = 3  # of folders in the source folder, down to the synsets
VALIDATION_ONE_IN = 100  # this project's choice
LISTING_THREADS = 16  # they wait for the disk, not for the CPU


class Builder(base.ImageFiles, publisher.PublisherBuilder, skip_registration=True):
    """ImageNet-21k: images of WordNet's nouns."""

    name = "imagenet21k"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "winter21_whole.tar.gz, or nXXXXXXXX.tar of each synset, or a folder nXXXXXXXX with its images"
    )

    SPLIT_RULE = (
        f". Without a folder called val, validation is one image in {VALIDATION_ONE_IN}, by a hash of its name: "
        "these are too few. --splits=train prepares the training split alone"
    )

    def _list(self, source):
        return find(source, self._splits)


def find(source: epath.Path, splits: tuple[str, ...]) -> Listing:
    """Finds the synsets and their images.

    Raises:
        FileNotFoundError: there are no synsets.
        ValueError: there is no such split, or a synset is present twice.
        DamagedArchiveError: a tar is cut off.
    """
    if "test" in splits:
        raise ValueError("ImageNet-21k has no test split; the validation split is a share of its images")
    holders, others = _holders(source)
    _check_distinct(_places(f"{holder}/image" for holder in holders))
    with concurrent.futures.ThreadPoolExecutor(LISTING_THREADS) as pool:
        items = [item for part in pool.map(lambda path: list(_images(source, path)), holders) for item in part]
    if not items:
        raise FileNotFoundError(
            f"there are no synsets, nXXXXXXXX.tar or nXXXXXXXX/, in {escape(source)} or in a folder of it"
            + archives.how_to_unpack(others)
        )
    names = _names(source, items, others)
    by_split = _by_split(items)
    listing = Listing({}, tuple(names.values()))
    for split in splits:
        listing.splits[split] = [
            item if names[item.label] == item.label else dataclasses.replace(item, label=names[item.label])
            for item in by_split[split]
        ]
    return listing


def is_validation(path: str) -> bool:
    """Whether an image is in the validation split, if the publisher provides no such split."""
    return zlib.crc32(path.rpartition("/")[2].encode(errors="surrogateescape")) % VALIDATION_ONE_IN == 0


def _holders(source: epath.Path) -> tuple[list[str], list[str]]:
    """The folders, tars and whole archives that hold images, relative to the source; and all other files."""
    holders, others, folders = [], [], [source]
    for depth in range(MAX_DEPTH + 1):
        inside = sorted(path for folder in folders for path in folder.iterdir() if not path.name.startswith("."))
        folders = []
        for path in inside:
            name = path.relative_to(source).as_posix()
            if SYNSET.fullmatch(path.name) or (archives.is_archive(path.name) and path.is_file()):
                holders.append(name)
            elif depth < MAX_DEPTH and path.is_dir():
                folders.append(path)
            else:
                others.append(name)
    return holders, others


def _images(source: epath.Path, holder: str) -> Iterator[Item]:
    """The images of a synset, or of all synsets of an archive."""
    if not archives.is_archive(holder):
        synset = holder.rpartition("/")[2]
        yield from (Item(f"{holder}/{name}", synset) for name in files.walk(source / holder))
        return
    for member in archives.members(source / holder):
        found = IN_SYNSET.fullmatch(f"{holder}/{member.name}")
        if found:
            span = (member.start, member.size)
            yield Item(f"{holder}/{member.name}", found["synset"], archive=holder, span=span)


def _by_split(items: list[Item]) -> dict[str, list[Item]]:
    """The items of each split: by the publisher's validation folder if there is one, else by a hash."""
    places = _places(item.path for item in items)
    _check_distinct(places)
    folders = dict.fromkeys(folder for folder, _ in places)
    for folder in folders:
        logging.info("ImageNet-21k: %d synsets in %s.", sum(key[0] == folder for key in places), escape(folder or "."))
    validation = set(filter(_is_of_validation, folders))
    splits: dict[str, list[Item]] = {"train": [], "validation": []}
    for item in items:
        held_out = _folder_of(item.path) in validation if validation else is_validation(item.path)
        splits["validation" if held_out else "train"].append(item)
    return splits


def _places(paths: Iterable[str]) -> dict[tuple[str, str], str]:
    """From paths of images: (folder of synsets, path that holds a synset) -> that synset."""
    found = (IN_SYNSET.fullmatch(path) for path in paths)
    return {(match["folder"], match["holder"]): match["synset"] for match in found if match}


def _folder_of(path: str) -> str:
    """The folder that contains an image's synset."""
    found = IN_SYNSET.fullmatch(path)
    return found["folder"] if found else ""


def _is_of_validation(folder: str) -> bool:
    return bool(VALIDATION_FOLDER.fullmatch(folder.rstrip("/").rpartition("/")[2]))


def _check_distinct(places: dict[tuple[str, str], str]) -> None:
    """Refuses a synset that is present twice in the training folders, or twice in the validation folders."""
    seen: dict[tuple[str, bool], str] = {}
    for (folder, holder), synset in places.items():
        other = seen.setdefault((synset, _is_of_validation(folder)), holder)
        if other != holder:
            same_place = other.removesuffix(".tar") == holder.removesuffix(".tar")
            both = "as a tar and as a folder" if same_place else "in two places"
            raise ValueError(
                f"{synset} is there twice, {both}: {escape(other)} and {escape(holder)}; remove one of them"
            )


def _names(source: epath.Path, items: list[Item], others: list[str]) -> dict[str, str]:
    """Synset -> the name of its class, in the order of the labels: its wnid, and its words if there are any."""
    synsets = sorted({item.label for item in items})
    found = publisher.named(others, class_names.WNID_FILES)
    if not found:
        return dict(zip(synsets, synsets, strict=True))
    words = class_names.read_class_names(source / sorted(found)[0]).wnids
    return {synset: words.get(synset, synset) for synset in synsets}
