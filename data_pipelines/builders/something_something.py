"""Something-Something v2 (arXiv 1706.04261): the publisher's json label files and its ID.webm clips.

The label files stand in `labels/`, the clips in `20bn-something-something-v2/`; other folders, the older names
`something-something-v2-train.json`, ... and clips that a mirror made mp4 are found as well. A clip's class is its
`template` without the brackets around its placeholders ("Holding [something]" is "Holding something"); its place in
labels.json is the label, and what the brackets stand for ("a cup") is stored as `placeholders`: of the test split it is
not published. That one's labels come from test-answers.csv, where that is there.
"""

import csv
import json
import re

import tensorflow_datasets as tfds
from etils import epath

from data_pipelines import files
from data_pipelines.prepare import base, publisher
from data_pipelines.prepare.listing import Item, Listing

NUM_CLASSES = 174
LABELS = "labels.json"
ANSWERS = "test-answers.csv"


class Builder(base.VideoFiles, publisher.PublisherBuilder, skip_registration=True):
    """Something-Something: people do things with objects; what is done shows in the order of frames."""

    name = "something_something"
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="v2")]
    HAS_PLACEHOLDERS = True
    OPTIONS = base.VideoFiles.OPTIONS | {"fps": (12.0, "frames stored a second; 12 is the publisher's own rate")}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "labels/ (train.json, validation.json, test.json, labels.json, test-answers.csv) and "
        "20bn-something-something-v2/ (ID.webm)"
    )

    def _list(self, source):
        return find(source, self._splits, NUM_CLASSES)


def find(source: epath.Path, splits: tuple[str, ...], num_classes: int) -> Listing:
    """Finds the label files and clips.

    Raises:
        FileNotFoundError: a label file is missing.
        ValueError: there are two of one, one does not read, or a template is none of the classes.
    """
    paths = list(files.walk(source))
    names = _class_names(_file(source, paths, LABELS))
    publisher.check_num_classes(names, num_classes, f"the {LABELS} in {source}")
    clips = {stem: path for stem, path in publisher.videos(paths) if stem.isdecimal()}
    listing = Listing({}, names, {})
    for split in splits:
        entries = _entries(source, paths, split, names)
        listing.splits[split] = [_item(clips[clip], entries[clip]) for clip in entries if clip in clips]
        listing.missing[split] = [_item(f"{clip}.webm", entries[clip]) for clip in entries if clip not in clips]
    return listing


def _class_names(path: epath.Path) -> tuple[str, ...]:
    return publisher.ordered({name: int(index) for name, index in json.loads(path.read_text()).items()}, str(path))


def _entries(source: epath.Path, paths: list[str], split: str, names: tuple[str, ...]) -> dict[str, tuple]:
    """Clip -> class, "" where it is not published, and placeholders, in the order of the split's label file."""
    path = _file(source, paths, f"{split}.json")
    answers = _answers(source, paths) if split == "test" else {}
    entries = {
        str(entry["id"]): (_class(entry) or answers.get(str(entry["id"]), ""), tuple(entry.get("placeholders", ())))
        for entry in json.loads(path.read_text())
    }
    publisher.check_known((label for label, _ in entries.values()), names, split, str(path))
    return entries


def _item(path: str, entry: tuple[str, tuple[str, ...]]) -> Item:
    label, placeholders = entry
    return Item(path, label, placeholders=placeholders)


def _class(entry: dict) -> str:
    return re.sub(r"[\[\]]", "", entry.get("template", ""))


def _answers(source: epath.Path, paths: list[str]) -> dict[str, str]:
    """Clip -> class of the test split; empty where the publisher's file is not there."""
    found = publisher.named(paths, re.escape(ANSWERS))
    return dict(csv.reader((source / found[0]).read_text().splitlines(), delimiter=";")) if found else {}


def _file(source: epath.Path, paths: list[str], name: str) -> epath.Path:
    """The label file of that name, or of its older one."""
    found = publisher.named(paths, rf"(something-something-v2-)?{re.escape(name)}")
    return source / publisher.the_one(found, name, source, "it is one of the label files that come with the clips")
