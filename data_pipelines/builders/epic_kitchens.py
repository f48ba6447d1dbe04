"""EPIC-KITCHENS-100 (arXiv 2006.13256): the publisher's csv files and videos; an action has a verb and a noun.

The csv files are those of epic-kitchens/epic-kitchens-100-annotations: EPIC_100_train.csv and EPIC_100_validation.csv
with the columns `narration_id`, `video_id`, `start_timestamp`, `stop_timestamp`, `verb_class` and `noun_class`, and
EPIC_100_test_timestamps.csv without classes; EPIC_100_verb_classes.csv and EPIC_100_noun_classes.csv with the columns
`id` and `key`. The videos, VIDEO_ID.MP4, are found by their names, in any folder, and the actions are cut out of them.
The classes are "verb: KEY" and "noun: KEY", each in the order of the ids, the verbs first.
"""

import re

from etils import epath

from data_pipelines import files
from data_pipelines.media import source_file
from data_pipelines.prepare import base, listing, publisher
from data_pipelines.prepare.listing import Item, Listing
from data_pipelines.sources import class_names, tables

NUM_CLASSES = {"verb": 97, "noun": 300}
LISTS = {
    "train": "EPIC_100_train.csv",
    "validation": "EPIC_100_validation.csv",
    "test": "EPIC_100_test_timestamps.csv",
}
COLUMNS = ("narration_id", "video_id", "start_timestamp", "stop_timestamp")
TIME = re.compile(r"(?P<hours>\d+):(?P<minutes>\d\d):(?P<seconds>\d\d(\.\d+)?)")


class Builder(base.VideoFiles, publisher.PublisherBuilder, skip_registration=True):
    """EPIC-KITCHENS-100: what people do in their own kitchens, in the first person; a verb and a noun per action."""

    name = "epic_kitchens"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "EPIC_100_train.csv, EPIC_100_validation.csv, EPIC_100_verb_classes.csv, EPIC_100_noun_classes.csv, and the "
        "videos as VIDEO_ID.MP4, in any folders"
    )

    @property
    def several_labels(self) -> bool:
        """A verb and a noun."""
        return True

    def _list(self, source):
        return find(source, self._splits, NUM_CLASSES)


def find(source: epath.Path, splits: tuple[str, ...], num_classes: dict[str, int]) -> Listing:
    """Finds the csv files and videos.

    Args:
        num_classes: "verb" and "noun" -> how many there must be.

    Raises:
        FileNotFoundError: a file of the publisher is missing.
        ValueError: one exists twice or cannot be parsed, or a class is unknown.
    """
    paths = list(files.walk(source))
    names = {head: _class_names(source, paths, head, count) for head, count in num_classes.items()}
    every = tuple(name for of_head in names.values() for name in of_head)
    listing.check_separable(every)
    found = publisher.Clips(paths)
    wanted = {split: _read_list(source, paths, split, names) for split in splits}
    videos = dict(publisher.videos(found.paths))
    result = Listing({}, every, {})
    for split, actions in wanted.items():
        items = [_item(found, videos, *action) for action in actions]
        here = [item for item in items if item.source_id in videos]
        result.splits[split] = sorted(here, key=lambda item: (item.path, item.cut))  # a video is read part by part
        result.missing[split] = [item for item in items if item.source_id not in videos]
    return result


# Video, start and end in seconds, classes; the narration's id, if an earlier action of the video has these times.
Action = tuple[str, tuple[float, float], tuple[str, ...], str]


def _item(
    found: publisher.Clips,
    videos: dict[str, str],
    video: str,
    cut: tuple[float, float],
    labels: tuple[str, ...],
    part_id: str,
) -> Item:
    path, label = videos.get(video, f"{video}.MP4"), listing.joined(labels)
    origin = {"source_id": video, "start_s": cut[0], "end_s": cut[1], "part_id": part_id}
    return found.item(path, label, labels=labels, cut=cut, **origin)


def _class_names(source: epath.Path, paths: list[str], head: str, count: int) -> tuple[str, ...]:
    """The classes of a head, in the order of their ids."""
    file = f"EPIC_100_{head}_classes.csv"
    wanted = "the publisher's list of classes, with columns id,key"
    path = source / publisher.the_one(publisher.named(paths, re.escape(file)), file, source, wanted)
    found = {row["id"]: row["key"] for _, row in tables.read_records(path, ("id", "key"), wanted)}
    if list(found) != [str(i) for i in range(count)]:
        raise ValueError(f"{path}: the ids of the {len(found)} classes are not 0 to {count - 1} in this order")
    return tuple(f"{head}: {class_names.normalize(key)}" for key in found.values())


def _read_list(source: epath.Path, paths: list[str], split: str, names: dict[str, tuple[str, ...]]) -> list[Action]:
    """The actions of a split; without classes where they are not published."""
    wanted = f"the publisher's list, with columns {','.join(COLUMNS)}"
    path = source / publisher.the_one(publisher.named(paths, re.escape(LISTS[split])), LISTS[split], source, wanted)
    columns = COLUMNS if split == "test" else (*COLUMNS, *(f"{head}_class" for head in names))
    listed = publisher.ListedFiles(path, split)
    for line, row in tables.read_records(path, columns, wanted, filled=("narration_id", "video_id")):
        cut = _seconds(path, line, row["start_timestamp"]), _seconds(path, line, row["stop_timestamp"])
        if cut[0] >= cut[1]:
            raise ValueError(f"{tables.at(path, line)}: it ends at {cut[1]:g} s, not after its start, {cut[0]:g} s")
        labels = tuple(_class(path, line, row, head, names[head]) for head in names if f"{head}_class" in row)
        listed.add((row["video_id"], cut, row["narration_id"]), labels, f"line {line}")
    # Two people may have narrated the same moment: with the same classes it counts once.
    found: dict[tuple[str, tuple[float, float], tuple[str, ...]], str] = {}
    for (video, cut, narration), labels in listed.values.items():
        found.setdefault((video, cut, labels), narration)
    actions, times = [], set()
    for (video, cut, labels), narration in found.items():
        time = (video, source_file.fragment(cut))
        actions.append((video, cut, labels, narration if time in times else ""))
        times.add(time)
    return actions


def _class(path: epath.Path, line: int, row: dict[str, str], head: str, names: tuple[str, ...]) -> str:
    number = row[f"{head}_class"]
    if not number.isdecimal() or int(number) >= len(names):
        raise ValueError(f"{tables.at(path, line)}: {head}_class {number!r}: must be from 0 to {len(names) - 1}")
    return names[int(number)]


def _seconds(path: epath.Path, line: int, text: str) -> float:
    """The seconds of a time such as 00:01:02.34."""
    match = TIME.fullmatch(text)
    if not match:
        raise ValueError(f"{tables.at(path, line)}: time {text!r}: must be HH:MM:SS.SS")
    return 3600 * int(match["hours"]) + 60 * int(match["minutes"]) + float(match["seconds"])
