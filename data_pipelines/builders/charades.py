"""Charades (arXiv 1604.01753): the publisher's csv files and its ID.mp4 videos. A video has any number of actions.

The csv files are Charades_v1_train.csv and Charades_v1_test.csv, which papers validate on, with the columns `id` and
`actions`, such as "c092 11.90 21.20;c147 0.00 12.60": classes with start and end in seconds. The record of a video has
the classes of all its actions; their times are not stored. Charades_v1_classes.txt has a class per line, "c000 Holding
some clothes". The videos, `Charades_v1/ID.mp4` or `Charades_v1_480/ID.mp4`, are found by their names, in any folder.
"""

import re

from etils import epath

from data_pipelines import files
from data_pipelines.prepare import base, listing, publisher
from data_pipelines.prepare.listing import Item, Listing
from data_pipelines.sources import class_names, tables

NUM_CLASSES = 157
LISTS = {"train": "Charades_v1_train.csv", "validation": "Charades_v1_test.csv"}
CLASSES = "Charades_v1_classes.txt"
COLUMNS = ("id", "actions")
ACTION = re.compile(r"(?P<code>c\d{3})( \d+(\.\d+)?){2}")


class Builder(base.VideoFiles, publisher.PublisherBuilder, skip_registration=True):
    """Charades: people act out scripts at home, half a minute each; a video has several actions."""

    name = "charades"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Charades_v1_train.csv, Charades_v1_test.csv, Charades_v1_classes.txt, and the videos as ID.mp4, in any folders"
    )

    @property
    def several_labels(self) -> bool:
        """A video has any number of actions."""
        return True

    def _list(self, source):
        return find(source, self._splits, NUM_CLASSES)


def find(source: epath.Path, splits: tuple[str, ...], num_classes: int) -> Listing:
    """Finds the csv files and videos.

    Raises:
        FileNotFoundError: a file of the publisher is missing.
        ValueError: one exists twice or cannot be parsed, or an action is not one of the classes; or a split that the
            publisher does not have.
    """
    if unknown := sorted(set(splits) - LISTS.keys()):
        raise ValueError(f"--splits={','.join(unknown)}: Charades has {', '.join(LISTS)}")
    paths = list(files.walk(source))
    names = _class_names(source, paths)
    publisher.check_num_classes(names, num_classes, f"the {CLASSES} in {source}")
    listing.check_separable(tuple(names.values()))
    found = publisher.Clips(paths)
    wanted = {split: _read_list(source, paths, split, names) for split in splits}
    clips = dict(publisher.videos(found.paths))
    if any(clip not in clips for of_split in wanted.values() for clip in of_split) and found.add_archives(source):
        clips = dict(publisher.videos(found.paths)) | clips
    result = Listing({}, tuple(names.values()), {})
    for split, of_split in wanted.items():
        items = [_item(found, clips[clip], labels) for clip, labels in of_split.items() if clip in clips]
        result.splits[split] = publisher.in_order(items)
        result.missing[split] = [
            _item(found, f"{clip}.mp4", labels) for clip, labels in of_split.items() if clip not in clips
        ]
    return result


def _item(found: publisher.Clips, path: str, labels: tuple[str, ...]) -> Item:
    return found.item(path, listing.joined(labels), labels=labels)


def _class_names(source: epath.Path, paths: list[str]) -> dict[str, str]:
    """Code of a class, such as c092 -> its name, in the order of the codes."""
    path = source / publisher.the_one(publisher.named(paths, re.escape(CLASSES)), CLASSES, source, "it has the classes")
    found = publisher.ListedFiles(path, "train")
    for line, text in tables.read_lines(path):
        code, _, name = text.partition(" ")
        if not re.fullmatch(r"c\d{3}", code) or not name.strip():
            raise ValueError(f"{tables.at(path, line)}: it must be CODE NAME, such as c000 Holding some clothes")
        found.add(code, class_names.normalize(name.strip()), f"line {line}")
    return dict(sorted(found.values.items()))


def _read_list(source: epath.Path, paths: list[str], split: str, names: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Video -> its classes, each once, in the order of the list; a video may have none."""
    wanted = f"the publisher's list, with columns {','.join(COLUMNS)}"
    path = source / publisher.the_one(publisher.named(paths, re.escape(LISTS[split])), LISTS[split], source, wanted)
    listed = publisher.ListedFiles(path, split)
    for line, row in tables.read_records(path, COLUMNS, wanted, filled=("id",)):
        codes = [_code(path, line, action, names) for action in row["actions"].split(";") if action.strip()]
        listed.add(row["id"], tuple(names[code] for code in dict.fromkeys(codes)), f"line {line}")
    return listed.values


def _code(path: epath.Path, line: int, action: str, names: dict[str, str]) -> str:
    match = ACTION.fullmatch(action.strip())
    if not match:
        raise ValueError(f"{tables.at(path, line)}: action {action!r}: must be CLASS START END, such as c092 11.9 21.2")
    if match["code"] not in names:
        raise ValueError(f"{tables.at(path, line)}: class {match['code']} is not in {CLASSES}")
    return match["code"]
