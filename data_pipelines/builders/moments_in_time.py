"""Moments in Time (arXiv 1801.03150): the publisher's csv files, category file and clips.

`moments_in_time/339` is the first release, of 339 classes, on which most papers report; `moments_in_time/305` is the
second, with 305 classes, which the publisher calls V2 (zhoubolei/moments_models, README.md). A folder with another
number of classes is refused. `moments_in_time` alone takes any number.

The source is one folder with trainingSet.csv and validationSet.csv (lines FILE,CLASS,AGREE,DISAGREE),
moments_categories.txt (lines CLASS,INDEX, where INDEX is the label) and the clips, `training/FILE` and
`validation/FILE`. Other files are ignored, so the raw and the 256 x 256 release are read in the same way. Clips named
yt-YOUTUBEID_SECOND are three seconds of that video.
"""

import re
from collections.abc import Iterator

from etils import epath

from data_pipelines import files
from data_pipelines.escaping import quote
from data_pipelines.prepare import base, publisher
from data_pipelines.prepare.listing import Item, Listing
from data_pipelines.sources import class_names, tables

CLASSES = {"339": 339, "305": 305}
LISTS = {"train": ("trainingSet.csv", "training"), "validation": ("validationSet.csv", "validation")}
CATEGORIES = "moments_categories.txt"
YOUTUBE = re.compile(r"yt-(?P<id>[\w-]{11})_(?P<start>\d+)")
LENGTH_S = 3  # of every clip (arXiv 1801.03150)


class Builder(base.VideoFiles, publisher.PublisherBuilder, skip_registration=True):
    """Moments in Time: three-second clips of people, animals, objects and nature."""

    name = "moments_in_time"
    RELEASES = tuple(CLASSES)
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "trainingSet.csv, validationSet.csv, moments_categories.txt, training/CLASS/FILE and validation/CLASS/FILE"
    )

    def _list(self, source):
        return find(source, self._splits, CLASSES.get(self.builder_config_name))


def find(source: epath.Path, splits: tuple[str, ...], num_classes: int | None = None) -> Listing:
    """Finds the lists and clips.

    Raises:
        FileNotFoundError: a list is missing.
        ValueError: a split is not published, a list cannot be parsed, a class is not one of the categories, or there
            are not `num_classes` of them.
    """
    unpublished = sorted(set(splits) - set(LISTS))
    if unpublished:
        raise ValueError(f"Moments in Time has no {', '.join(unpublished)} split, only {' and '.join(LISTS)}")
    paths = set(files.walk(source))
    found = publisher.named(paths, re.escape(CATEGORIES))
    path = publisher.the_one(found, CATEGORIES, source, "it comes with the clips")
    folder = path.removesuffix(CATEGORIES)  # with its slash, or ""
    names_found = publisher.read_class_names(source / path, "CLASS,INDEX")
    if num_classes is not None:
        publisher.check_num_classes(names_found, num_classes, str(source / path))
    listing = Listing({}, names_found, {})
    for split in splits:
        items = list(_read_list(source / folder, split, folder, names_found))
        listing.splits[split] = [item for item in items if item.path in paths]
        listing.missing[split] = [item for item in items if item.path not in paths]
    return listing


def _read_list(folder: epath.Path, split: str, prefix: str, names_found: tuple[str, ...]) -> Iterator[Item]:
    """The files in a split's list."""
    name, inside = LISTS[split]
    path = folder / name
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}, the list of the {split} split")
    known, listed = set(names_found), publisher.ListedFiles(path, split)
    for line, row in tables.read_csv(path):
        if len(row) < 2 or not row[0] or class_names.normalize(row[1]) not in known:
            raise ValueError(f"{tables.at(path, line)}: {quote(','.join(row))} is not FILE,CLASS,... of a known class")
        listed.add(row[0], class_names.normalize(row[1]), f"line {line}")
    return (_item(f"{prefix}{inside}/{file}", label) for file, label in listed.values.items())


def _item(path: str, label: str) -> Item:
    match = YOUTUBE.match(path.rpartition("/")[2])
    if not match:
        return Item(path, label)
    start_s = float(match["start"])
    return Item(path, label, source_id=match["id"], start_s=start_s, end_s=start_s + LENGTH_S)
