"""A list of files anywhere, such as a CSV of path and label; videos by default.

    path,label,split
    clips/a.mp4,run,train
    /data/others/b.mp4,sit,validation

Paths count from the list's folder, if they are not absolute. Without a column `split` the last fifth of each class is
validation. config.datasets.NAME.list_of_files names such a list, and a training then makes the records at its start.
"""

import collections
import dataclasses
import hashlib
import os

from etils import epath

from data_pipelines.builders.formats import samples
from data_pipelines.escaping import escape, quote
from data_pipelines.prepare import base, folder, listing
from data_pipelines.prepare.listing import Item, Listing, flag
from data_pipelines.sources import file_lists, nesting, tables

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the files are divided and labelled: flags of `data_pipelines.prepare`."""

    list_columns: tuple[str, ...] = flag(
        file_lists.DEFAULT_COLUMNS,
        "columns of the list, if its first line does not name them: path, label, split; others are ignored",
    )
    validation_share: float = flag(
        0.2, "without a column split: share of each class that is validation, the last in the list; 0: none"
    )
    class_names: str = flag("", "file, per line a class, or its number and name; else: the labels that are found")
    modality: str = flag("video", "video or image: what the files are")


class _ListOfFiles(folder.FolderBuilder, skip_registration=True):
    LAYOUT = Layout
    SOURCE, SOURCE_HELP, EXAMPLE = "LIST", "the list", "/data/mine.csv"

    @classmethod
    def for_layout(cls, layout):
        """The builder of the modality."""
        samples.check_choice("modality", layout.modality, samples.MODALITIES)
        return Images if layout.modality == "image" else Builder

    def origin(self):
        """As of a folder, and the hash of the list: another list gives other data."""
        path = epath.Path(self.builder_config.source)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {escape(path)}: --source must be a list of files")
        return super().origin() | {folder.LIST_SHA256: hashlib.sha256(path.read_bytes()).hexdigest()}

    def _list(self, source):
        return find(source, self.builder_config.layout)


class Builder(base.VideoFiles, _ListOfFiles, skip_registration=True):
    """Files of a list."""

    name = "list_of_files"


class Images(base.ImageFiles, _ListOfFiles, skip_registration=True):
    """Files of a list."""

    name = "list_of_files"


def find(source: str, layout: Layout) -> tuple[epath.Path, Listing]:
    """The folder of the list, and its files.

    Raises:
        FileNotFoundError: there is no list, or none of a few of its files.
        ValueError: the list cannot be read, names a file twice, or has an unknown split or class.
    """
    path = epath.Path(source)
    root = epath.Path(os.path.dirname(source) or ".")
    entries = file_lists.read_list(path, layout.list_columns)
    placed = file_lists.resolve(path, entries, root, "")
    _check_distinct(path, entries, placed)
    file_lists.check_some_exist(path, entries[0].line, placed, root)
    items = [Item(place, listing.label_of(path, entry, place)) for place, entry in zip(placed, entries, strict=True)]
    if entries[0].split is not None:
        splits = _by_column(path, entries, items)
    else:
        splits = samples.by_share(items, layout.validation_share) if layout.validation_share else {"train": items}
    return root, samples.listed(splits, samples.read_names(root, layout.class_names))


def _by_column(path: epath.Path, entries: list[file_lists.Entry], items: list[Item]) -> dict[str, list[Item]]:
    splits: dict[str, list[Item]] = collections.defaultdict(list)
    for entry, item in zip(entries, items, strict=True):
        split = nesting.split_of(entry.split or "")
        if split not in SPLITS:
            raise ValueError(
                f"{tables.at(path, entry.line)}: split {quote(entry.split)} must be one of {', '.join(SPLITS)}"
            )
        splits[split].append(item)
    if "train" not in splits:
        raise ValueError(f"{escape(path)}: no file has the split train, but {', '.join(splits)}")
    return {split: splits[split] for split in SPLITS if split in splits}


def _check_distinct(path: epath.Path, entries: list[file_lists.Entry], placed: list[str]) -> None:
    lines: dict[str, int] = {}
    for entry, place in zip(entries, placed, strict=True):
        if place in lines:
            raise ValueError(
                f"{tables.at(path, entry.line)}: {escape(place)} is listed twice (first in line {lines[place]})"
            )
        lines[place] = entry.line
