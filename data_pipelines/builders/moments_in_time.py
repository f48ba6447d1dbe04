"""Moments in Time (arXiv 1801.03150): the publisher's csv files, category file and clips.

One folder with trainingSet.csv and validationSet.csv (lines FILE,CLASS,AGREE,DISAGREE), moments_categories.txt (lines
CLASS,INDEX: the label) and the clips, `training/FILE` and `validation/FILE`. Other files do not matter, so that the raw
and the 256 x 256 release are read alike. Clips called yt-YOUTUBEID_SECOND are three seconds of that video.
"""

import csv
import re

from etils import epath

from data_pipelines import files
from data_pipelines.prepare import base, publisher
from data_pipelines.prepare.listing import Item, Listing

LISTS = {"train": ("trainingSet.csv", "training"), "validation": ("validationSet.csv", "validation")}
CATEGORIES = "moments_categories.txt"
YOUTUBE = re.compile(r"yt-(?P<id>[\w-]{11})_(?P<start>\d+)")
LENGTH_S = 3  # of every clip (arXiv 1801.03150)


class Builder(base.VideoFiles, publisher.PublisherBuilder, skip_registration=True):
    """Moments in Time: three-second clips of people, animals, objects and nature."""

    name = "moments_in_time"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "trainingSet.csv, validationSet.csv, moments_categories.txt, training/CLASS/FILE and validation/CLASS/FILE"
    )

    def _list(self, source):
        return find(source, self._splits)


def find(source: epath.Path, splits: tuple[str, ...]) -> Listing:
    """Finds the lists and clips.

    Raises:
        FileNotFoundError: a list is missing.
        ValueError: a split is not published, a list does not read, or a class is none of the categories.
    """
    unpublished = sorted(set(splits) - set(LISTS))
    if unpublished:
        raise ValueError(f"Moments in Time has no {', '.join(unpublished)} split, only {' and '.join(LISTS)}")
    paths = set(files.walk(source))
    found = publisher.named(paths, re.escape(CATEGORIES))
    path = publisher.the_one(found, CATEGORIES, source, "it comes with the clips")
    folder = path.removesuffix(CATEGORIES)  # with its slash, or ""
    names = _class_names(source / path)
    listing = Listing({}, names, {})
    for split in splits:
        items = list(_read_list(source / folder, split, folder, names))
        listing.splits[split] = [item for item in items if item.path in paths]
        listing.missing[split] = [item for item in items if item.path not in paths]
    return listing


def _class_names(path: epath.Path) -> tuple[str, ...]:
    rows = [row for row in csv.reader(path.read_text().splitlines()) if row]
    if any(len(row) != 2 or not row[1].strip().isdecimal() for row in rows):
        raise ValueError(f"{path}: each line must be CLASS,INDEX")
    return publisher.ordered({name.strip(): int(index) for name, index in rows}, str(path))


def _read_list(folder: epath.Path, split: str, prefix: str, names: tuple[str, ...]):
    """The files that a split's list has."""
    name, inside = LISTS[split]
    path = folder / name
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}, the list of the {split} split")
    known = set(names)
    reader = csv.reader(path.read_text().splitlines())
    for row in reader:
        if len(row) < 2 or row[1] not in known:
            raise ValueError(
                f"{path}, line {reader.line_num}: {','.join(row)!r} is not FILE,CLASS,... of a known class"
            )
        yield _item(f"{prefix}{inside}/{row[0]}", row[1])


def _item(path: str, label: str) -> Item:
    match = YOUTUBE.match(path.rpartition("/")[2])
    if not match:
        return Item(path, label)
    start_s = float(match["start"])
    return Item(path, label, source_id=match["id"], start_s=start_s, end_s=start_s + LENGTH_S)
