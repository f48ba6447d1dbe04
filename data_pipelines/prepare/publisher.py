"""The common part of the builders of published datasets: each reads its publisher's files from `manual_dir`."""

import concurrent.futures
import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow_datasets as tfds
from absl import logging
from etils import epath
from tqdm import tqdm

from data_pipelines import archives, files
from data_pipelines.escaping import escape, quote
from data_pipelines.prepare import base, listing
from data_pipelines.sources import class_names as class_names_files

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".flv", ".3gp")
SPLITS = ("train", "validation", "test")
SHOWN = 3  # faults per message


class PublisherBuilder(base.MediaBuilder, skip_registration=True):
    """Base of the builders of published datasets."""

    RELEASES: tuple[str, ...] = ()  # configs of a builder whose name alone is a dataset, too; TFDS has no such configs

    def __init__(
        self,
        *,
        splits: tuple[str, ...] = ("train", "validation"),
        config: str | tfds.core.BuilderConfig | None = None,
        **kwargs: Any,
    ):
        """Makes a builder. See `base.MediaBuilder` for the other arguments.

        Args:
            splits: which of the publisher's splits to prepare.
            config: the name of a config or release.
        """
        unknown = sorted(set(splits) - set(SPLITS))
        if unknown or not splits:
            raise ValueError(f"splits {','.join(splits)!r}: must be some of {', '.join(SPLITS)}")
        self._splits = tuple(splits)
        super().__init__(config=tfds.core.BuilderConfig(name=config) if config in self.RELEASES else config, **kwargs)

    def origin(self):
        """The splits that are prepared."""
        return {"splits": list(self._splits), **super().origin()}

    def _find(self, dl_manager):
        source = source_folder(dl_manager.manual_dir, self.name, self.builder_config_name)
        return source, self._list(source)

    def _list(self, source: epath.Path) -> listing.Listing:
        """Finds the publisher's files in the source folder, at any depth."""
        raise NotImplementedError


def source_folder(manual_dir: epath.Path, name: str, config: str | None) -> epath.Path:
    """The folder of one dataset: the first of MANUAL/NAME/CONFIG, MANUAL/CONFIG, MANUAL/NAME and MANUAL that exists."""
    inside = [f"{name}/{config}", config, name] if config else [name]
    return next((manual_dir / path for path in inside if (manual_dir / path).is_dir()), manual_dir)


def named(paths: Iterable[str], pattern: str) -> list[str]:
    """The files whose whole name matches a regular expression, in any folder."""
    return [path for path in paths if re.fullmatch(pattern, path.rpartition("/")[2])]


def videos(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The name without ending, and the path, of each file with the ending of a video."""
    for path in paths:
        stem, dot, suffix = path.rpartition("/")[2].rpartition(".")
        if dot + suffix.lower() in VIDEO_SUFFIXES:
            yield stem, path


@dataclasses.dataclass
class Clips:
    """The videos of a source folder: its files, and the members of the archives in it.

    Attributes:
        paths: paths of the files; ARCHIVE/MEMBER for members.
        members: path of a member -> its archive, and its position in the archive.
    """

    paths: list[str]
    members: dict[str, tuple[str, tuple[int, int]]] = dataclasses.field(default_factory=dict)

    def add_archives(self, source: epath.Path) -> bool:
        """Adds the members of the archives; returns False if there are none. Compressed archives are read to the end.

        Raises:
            DamagedArchiveError: an archive is cut off.
        """
        found = sorted(path for path in self.paths if archives.is_archive(path))
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            listed = pool.map(lambda path: archives.members(source / path), found)
            for path, members in zip(found, tqdm(listed, "archives", len(found), disable=not found), strict=True):
                self.members |= {f"{path}/{one.name}": (path, (one.start, one.size)) for one in members}
        self.paths = [*self.paths, *self.members]
        return bool(found)

    def item(self, path: str, label: str, **more) -> listing.Item:
        """The item of a file or member."""
        archive, span = self.members.get(path, ("", None))
        return listing.Item(path, label, archive=archive, span=span, **more)


def in_order(items: list[listing.Item]) -> list[listing.Item]:
    """Files first, then members in the order of their archives, so that compressed archives are read in one pass."""
    return sorted(items, key=lambda item: (item.archive, item.span or (0, 0)))


def the_one(paths: list[str], name: str, source: epath.Path, what: str) -> str:
    """The only one of the paths.

    Args:
        paths: the paths that were found.
        name: the file name that was searched.
        source: the folder that was searched.
        what: a hint where to get the file.

    Raises:
        FileNotFoundError: there is no path.
        ValueError: there are several paths.
    """
    if not paths:
        unpack = archives.how_to_unpack(sorted(files.walk(source)))
        raise FileNotFoundError(f"there is no {name} in {escape(source)}, at any depth: {what}{unpack}")
    if len(paths) > 1:
        raise ValueError(f"there are several {name} in {source}: {', '.join(sorted(paths))}; keep one of them there")
    return paths[0]


def check_num_classes(names, expected: int, where: str) -> None:
    """Refuses the lists of another dataset, by their number of classes.

    Raises:
        ValueError: the number of classes is wrong.
    """
    if len(names) != expected:
        raise ValueError(f"{where} has {len(names)} classes instead of {expected}: is it from another dataset?")


@dataclasses.dataclass
class ListedFiles:
    """The entries of the list of a split, each file once.

    Attributes:
        path: the list.
        split: its split.
        values: file -> the value that the list gives for it, such as its class.
        places: file -> its place in the list, such as "line 3".
    """

    path: epath.Path
    split: str
    values: dict = dataclasses.field(default_factory=dict)
    places: dict = dataclasses.field(default_factory=dict)

    def add(self, file, value, place: str) -> None:
        """Adds a file. A file that is already listed with the same value is reported in the log.

        Raises:
            ValueError: the file is already listed with another value.
        """
        if file not in self.values:
            self.values[file], self.places[file] = value, place
            return
        twice = f"{escape(self.path)}, {place}: {escape(file)} is listed twice, also in {self.places[file]}"
        if self.values[file] != value:
            raise ValueError(f"{twice}, with another class: remove the line that is wrong")
        logging.warning("%s; it counts once.", twice)

    def check_classes(self, label_of: Callable[[Any], str], class_names: tuple[str, ...]) -> None:
        """Refuses labels that are not classes. Labels of the test split may be "", if they are not published.

        Raises:
            ValueError: there are unknown labels; the message names some of them and their places.
        """
        known = {*class_names, ""} if self.split == "test" else set(class_names)
        unknown: dict[str, str] = {}
        for file, value in self.values.items():
            if label_of(value) not in known:
                unknown.setdefault(label_of(value), self.places[file])
        if unknown:
            some = ", ".join(f"{quote(label)} in {place}" for label, place in [*unknown.items()][:SHOWN])
            raise ValueError(f"{escape(self.path)} has {len(unknown)} unknown classes, such as {some}")


def read_class_names(path: epath.Path, wanted: str, first: int = 0) -> tuple[str, ...]:
    """Class names in the order of the publisher's indices.

    Args:
        path: the publisher's file.
        wanted: the form of its lines, for messages.
        first: the index of the first class.

    Raises:
        ValueError: the file cannot be parsed, or the indices are not `first`, `first` + 1, ..., each once.
    """
    found = class_names_files.read_class_names(path)
    if not found.are_numbered:
        raise ValueError(f"{escape(path)}: each line must be {wanted}")
    if list(found.numbers) != [str(index) for index in range(first, first + len(found.names))]:
        last = first + len(found.names) - 1
        raise ValueError(
            f"{escape(path)}: the indices of the {len(found.names)} classes are not {first} to {last}, each once"
        )
    return found.names
