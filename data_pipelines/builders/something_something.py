"""Something-Something v2 (arXiv 1706.04261): the publisher's json label files and its ID.webm clips.

The label files are in `labels/`, the clips in `20bn-something-something-v2/`. Other folders, the older names
`something-something-v2-train.json`, ... and clips that a mirror converted to mp4 are found as well. A clip's class is
its `template` without the brackets around its placeholders ("Holding [something]" is "Holding something"). The label is
the index of the class in labels.json. The texts for the brackets ("a cup") are stored as `placeholders`; for the test
split they are not published. The labels of the test split come from test-answers.csv, if that file exists.
"""

import re

import tensorflow_datasets as tfds
from etils import epath

from data_pipelines import files
from data_pipelines.escaping import escape
from data_pipelines.prepare import base, publisher
from data_pipelines.prepare.listing import Item, Listing
from data_pipelines.sources import class_names, tables

NUM_CLASSES = 174
LABELS = "labels.json"
ANSWERS = "test-answers.csv"


class Builder(base.VideoFiles, publisher.PublisherBuilder, skip_registration=True):
    """Something-Something: people do things with objects; the order of the frames shows what is done."""

    name = "something_something"
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="v2")]
    HAS_PLACEHOLDERS = True
    OPTIONS = base.VideoFiles.OPTIONS | {"fps": (12.0, "frames stored per second; 12 is the publisher's own rate")}
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
        ValueError: a label file exists twice or cannot be parsed, or a template is not one of the classes.
    """
    paths = list(files.walk(source))
    names_found = publisher.read_class_names(_file(source, paths, LABELS), '"CLASS": "INDEX"')
    publisher.check_num_classes(names_found, num_classes, f"the {LABELS} in {source}")
    entries = {split: _entries(source, paths, split, names_found) for split in splits}
    found = publisher.Clips(paths)
    clips = _numbered(found.paths)
    if any(clip not in clips for of_split in entries.values() for clip in of_split) and found.add_archives(source):
        clips = _numbered(found.paths) | clips
    listing = Listing({}, names_found, {})
    for split, of_split in entries.items():
        items = [_item(found, clips[clip], of_split[clip]) for clip in of_split if clip in clips]
        listing.splits[split] = publisher.in_order(items)
        listing.missing[split] = [
            _item(found, f"{clip}.webm", of_split[clip]) for clip in of_split if clip not in clips
        ]
    return listing


def _numbered(paths: list[str]) -> dict[str, str]:
    """Clip number -> its path."""
    return {stem: path for stem, path in publisher.videos(paths) if stem.isdecimal()}


def _entries(source: epath.Path, paths: list[str], split: str, names_found: tuple[str, ...]) -> dict[str, tuple]:
    """Clip -> class ("" if it is not published) and placeholders, in the order of the split's label file."""
    path = _file(source, paths, f"{split}.json")
    answers = _answers(source, paths) if split == "test" else {}
    listed = publisher.ListedFiles(path, split)
    entries = tables.read_json(path)
    for number, entry in enumerate(entries if isinstance(entries, list) else [None], 1):
        clip, label, placeholders = _parse(path, number, entry)
        listed.add(clip, (label or answers.get(clip, ""), placeholders), f"entry {number}")
    listed.check_classes(lambda value: value[0], names_found)
    return listed.values


def _parse(path: epath.Path, number: int, entry: object) -> tuple[str, str, tuple[str, ...]]:
    """Clip, class and placeholders of an entry of a label file."""
    wanted = '{"id": "1", "template": "Holding [something]", "placeholders": ["a cup"]}'
    if not isinstance(entry, dict) or not str(entry.get("id", "")).isdecimal():
        raise ValueError(f"{escape(path)}, entry {number}: it must be a list of entries such as {wanted}")
    template, placeholders = entry.get("template", ""), entry.get("placeholders", [])
    texts = [template, *placeholders] if isinstance(placeholders, list) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"{escape(path)}, entry {number}: template or placeholders are not text; it must be as in {wanted}"
        )
    return str(entry["id"]), class_names.normalize(re.sub(r"[\[\]]", "", template)), tuple(placeholders)


def _item(found: publisher.Clips, path: str, entry: tuple[str, tuple[str, ...]]) -> Item:
    label, placeholders = entry
    return found.item(path, label, placeholders=placeholders)


def _answers(source: epath.Path, paths: list[str]) -> dict[str, str]:
    """Clip -> class of the test split; empty if the publisher's file is missing."""
    found = publisher.named(paths, re.escape(ANSWERS))
    if not found:
        return {}
    path = source / publisher.the_one(found, ANSWERS, source, "it comes with the clips")
    listed = publisher.ListedFiles(path, "test")
    for line, cells in tables.read_csv(path, ";"):
        if len(cells) != 2:
            raise ValueError(f"{tables.at(path, line)}: it must be ID;CLASS")
        listed.add(cells[0], class_names.normalize(cells[1]), f"line {line}")
    return listed.values


def _file(source: epath.Path, paths: list[str], name: str) -> epath.Path:
    """The label file with this name or with its older name."""
    found = publisher.named(paths, rf"(something-something-v2-)?{re.escape(name)}")
    return source / publisher.the_one(found, name, source, "it is one of the label files that come with the clips")
