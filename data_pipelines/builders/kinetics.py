"""Kinetics-400, 600 and 700 (arXiv 1705.06950, 1808.01340, 1907.06987): DeepMind's csv files and any mirror's clips.

The csv files state the label of each clip. Clips are found by their names, anywhere in the folder:
YOUTUBEID_START_END.mp4 with six digits each, as the ActivityNet crawler and CVDF name them, or YOUTUBEID.mp4. So class
folders, split folders, flat folders and `replacement_for_corrupted_k400` (preferred if it has a clip) all work. A label
is the index of a class in the sorted names of train.csv, which is the order of DeepMind's own lists.
"""

import collections
import re
from collections.abc import Iterable

import tensorflow_datasets as tfds
from etils import epath

from data_pipelines import files
from data_pipelines.escaping import quote
from data_pipelines.prepare import base, publisher
from data_pipelines.prepare.listing import Item, Listing
from data_pipelines.sources import class_names, tables

CLASSES = {"400": 400, "600": 600, "700": 700}
CSV_NAMES = {"train": ("train",), "validation": ("validate", "val", "validation"), "test": ("test",)}
COLUMNS = ("youtube_id", "time_start", "time_end")
FILE_NAME = re.compile(r"(?P<id>[\w-]{11})(_(?P<start>\d+)_(?P<end>\d+))?")
REPLACEMENT = "replacement"  # part of the name of the folder with replacements for damaged clips

Clip = tuple[str, int, int]  # YouTube id, start and end in seconds


class Builder(base.VideoFiles, publisher.PublisherBuilder, skip_registration=True):
    """Kinetics: ten-second clips of human actions, from YouTube."""

    name = "kinetics"
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in CLASSES]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "train.csv, validate.csv, test.csv of one Kinetics, and its clips as YOUTUBEID_START_END.mp4, in any folders"
    )

    def _list(self, source):
        return find(source, self._splits, CLASSES[self.builder_config.name])


def find(source: epath.Path, splits: tuple[str, ...], num_classes: int) -> Listing:
    """Finds the csv files and clips.

    Raises:
        FileNotFoundError: a csv file is missing.
        ValueError: a split has two csv files, one cannot be parsed, or they are from another Kinetics dataset.
    """
    paths = list(files.walk(source))
    lists = {split: _read_csv(source, paths, split) for split in dict.fromkeys(("train", *splits))}
    names_found = tuple(sorted(set(lists["train"].values.values())))
    publisher.check_num_classes(names_found, num_classes, f"the train.csv in {source}")
    clips = _Clips(source, paths, [clip for listed in lists.values() for clip in listed.values])
    listing = Listing({}, names_found, {})
    for split in splits:
        lists[split].check_classes(str, names_found)
    for split, found in clips.find({split: lists[split].values for split in splits}).items():
        labels = lists[split].values
        items = [clips.item(path, clip, labels[clip]) for clip, path in found.items() if path]
        listing.splits[split] = publisher.in_order(items)
        listing.missing[split] = [_item(_name(clip), clip, labels[clip]) for clip in found if not found[clip]]
    return listing


class _Clips:
    """The paths of the clips: files, or members of archives that are read without unpacking."""

    def __init__(self, source: epath.Path, paths: list[str], listed: list[Clip]):
        self._source, self._clips = source, publisher.Clips(paths)
        self._clips_of = collections.Counter(youtube_id for youtube_id, _, _ in set(listed))

    def find(self, wanted: dict[str, Iterable[Clip]]) -> dict[str, dict[Clip, str | None]]:
        """Split -> clip -> its path, or None if it is missing. Archives are searched only if files are missing."""
        found = self._find(wanted)
        lacking = any(path is None for paths in found.values() for path in paths.values())
        return self._find(wanted) if lacking and self._clips.add_archives(self._source) else found

    def item(self, path: str, clip: Clip, label: str) -> Item:
        return _item(path, clip, label, *self._clips.members.get(path, ()))

    def _find(self, wanted: dict[str, Iterable[Clip]]) -> dict[str, dict[Clip, str | None]]:
        named = collections.defaultdict(list)  # (id, start, end), or (id,) -> files of that name
        for stem, path in publisher.videos(self._clips.paths):
            match = FILE_NAME.fullmatch(stem)
            if match:
                times = [int(time) for time in match.group("start", "end") if time]
                named[match["id"], *times].append(path)
        return {split: {clip: self._path(named, split, clip) for clip in clips} for split, clips in wanted.items()}

    def _path(self, named: dict[tuple, list[str]], split: str, clip: Clip) -> str | None:
        """The file of a clip. A file named only by the id is used if only one clip was cut from that video."""
        paths = named.get(clip) or (named.get(clip[:1]) if self._clips_of[clip[0]] == 1 else None)
        return min(paths, key=lambda path: (path in self._clips.members, _rank(path, split))) if paths else None


def _rank(path: str, split: str) -> tuple:
    """Sort key for files of one name: replacements first, then files in the split's folder, then the others."""
    folders = path.split("/")[:-1]
    replaces = any(REPLACEMENT in folder for folder in folders)
    in_split = any(folder.startswith(CSV_NAMES[split]) for folder in folders)
    return (not replaces, not in_split, path)


def _read_csv(source: epath.Path, paths: list[str], split: str) -> publisher.ListedFiles:
    """Clip -> label ("" if it is not published), in the order of the split's csv file."""
    name = rf"({'|'.join(CSV_NAMES[split])})\.csv"
    # kinetics_train.csv, if there is no train.csv
    found = publisher.named(paths, name) or publisher.named(paths, rf".*[_-]{name}")
    wanted = f"the {split} split's csv from DeepMind or CVDF, with columns label,{','.join(COLUMNS)},split"
    path = source / publisher.the_one(found, f"{CSV_NAMES[split][0]}.csv", source, wanted)
    listed = publisher.ListedFiles(path, split)
    for line, row in tables.read_records(path, COLUMNS, wanted, filled=("youtube_id",)):
        clip, label = _parse(path, line, row)
        if split == "train":
            class_names.check([label], f"{tables.at(path, line)}: ")
        listed.add(clip, label, f"line {line}")
    return listed


def _parse(path: epath.Path, line: int, row: dict[str, str]) -> tuple[Clip, str]:
    try:
        start, end = (round(float(row[column])) for column in ("time_start", "time_end"))
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{tables.at(path, line)}: time_start and time_end do not read: {quote(row['time_start'])}, "
            f"{quote(row['time_end'])}; they must be seconds"
        ) from error
    return (row["youtube_id"], start, end), class_names.normalize(row.get("label", ""))


def _name(clip: Clip) -> str:
    return f"{clip[0]}_{clip[1]:06d}_{clip[2]:06d}.mp4"


def _item(path: str, clip: Clip, label: str, archive: str = "", span: tuple[int, int] | None = None) -> Item:
    return Item(path, label, clip[0], float(clip[1]), float(clip[2]), archive, span)
