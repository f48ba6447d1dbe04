"""A folder of media -> the files of each split, and their classes."""

import dataclasses
import difflib
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

from etils import epath

from data_pipelines import escaping, files
from data_pipelines.escaping import escape, quote
from data_pipelines.media import source_file
from data_pipelines.sources import class_names, file_lists, label_features, nesting, tables

SHOWN_CLASSES, SHOWN_FILES = 10, 5  # in a message
_Example = TypeVar("_Example")


def flag(default, help: str):
    """A field of a layout: a flag of `data_pipelines.prepare`, with its default and its help text."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the files are divided and labelled: the flags of `data_pipelines.prepare` and their help texts."""

    train_folder: str = flag("train", "folder of the training files, as CLASS/FILE")
    validation_folder: str = flag("validation", "folder of the validation files, as CLASS/FILE; empty: there are none")
    validation_pattern: str = flag(
        "", "regular expression: files of the source's CLASS/FILE are validation if it matches a part of their path"
    )
    validation_share: float = flag(
        0.0, "share of each class of the source's CLASS/FILE that is validation: the last files by name, so that "
        "neighbours, which are often cut from one recording, stay together"
    )  # fmt: skip
    train_list: str = flag("", "file in the source that lists the training files, instead of all in --train_folder")
    validation_list: str = flag("", "file in the source that lists the validation files")
    list_columns: tuple[str, ...] = flag(
        ("path", "label"),
        "columns of the lists; path: in the split's folder if there is one, else in the source; "
        "label: a class, or its number in --class_names (without this column: the file's folder); others are ignored",
    )
    label_separator: str = flag(
        "", "between the classes of a file that has several, such as ';'; empty: each file has one class"
    )
    class_names: str = flag("", "file in the source, per line a class, or its number and name; else: those found")
    skip: tuple[str, ...] = flag((), "classes to leave out, such as one of a single file, which cannot be divided")


@dataclasses.dataclass(frozen=True, slots=True)  # there may be millions
class Item:
    """A source file.

    Attributes:
        path: relative to the source folder; TAR/MEMBER for a member of a tar, TABLE/ROW/NAME for a cell of a table.
        label: the name of its class; "" if the publisher does not publish it. Of several, their names in one text.
        source_id: the original that it was cut from, a YouTube id; "" if it is not known.
        start_s: its start in the original, in seconds.
        end_s: its end in the original, in seconds.
        archive: the tar or table that holds it, relative to the source folder; "" for a file.
        span: its first byte in the tar, and its number of bytes; its row in the table, and about how many bytes it has.
        placeholders: the texts for the brackets of its class's template; None if classes have no brackets.
        labels: the names of its classes, any number, in a dataset with several labels per file; None in others.
        cut: start and end of the part of the file that is read, in seconds; None: all of it.
        part_id: the publisher's name of the part, where another part of the file has the same start and end.
        column: the column of the table that holds it; "" for a file or a member of a tar.
    """

    path: str
    label: str
    source_id: str = ""
    start_s: float = 0.0
    end_s: float = 0.0
    archive: str = ""
    span: tuple[int, int] | None = None
    placeholders: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    cut: tuple[float, float] | None = None
    part_id: str = ""
    column: str = ""

    @property
    def source(self) -> str:
        """Its path, and which part of it is read: a name that no other item has."""
        part = "" if self.cut is None else source_file.fragment(self.cut)
        return f"{self.path}{part}&id={self.part_id}" if self.part_id else self.path + part


@dataclasses.dataclass(frozen=True)
class Listing:
    """The contents of a source folder.

    Attributes:
        splits: split -> its files.
        class_names: in the order of the labels.
        missing: split -> files that the publisher lists but that are not in the folder; `path` is the expected path.
    """

    splits: dict[str, list[Item]]
    class_names: tuple[str, ...]
    missing: dict[str, list[Item]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        class_names.check(self.class_names)


def find(source: str, layout: Layout) -> Listing:
    """Lists a source folder.

    Raises:
        FileNotFoundError: the folder, one of its parts, or a list is missing.
        ValueError: a list cannot be parsed, a file is listed twice, a class is unknown, or there are other folders in
            the place of the class folders.
    """
    root = epath.Path(source)
    known = class_names.read_class_names(root / layout.class_names) if layout.class_names else None
    if layout.skip and known:
        raise ValueError(f"--skip={','.join(layout.skip)}: with --class_names, leave these classes out of its file")
    if layout.skip and layout.label_separator:
        raise ValueError(
            f"--skip={','.join(layout.skip)}: not with --label_separator, where a file has several classes"
        )
    splits = _without_classes(_splits(root, layout, checked=known is None), layout.skip)
    _check_distinct(splits)
    separator = layout.label_separator
    known = known or _names_found(splits["train"], separator)
    listing = Listing({split: _items(found, known, separator) for split, found in splits.items()}, known.names)
    if separator:
        check_separable(known.names)
    for found in splits.values():
        if found.list_path:
            file_lists.check_some_exist(found.list_path, found.lines[0], [path for path, _ in found.files], root)
    return listing


@dataclasses.dataclass(frozen=True)
class _Found:
    """The files of a split, before their classes are known.

    Attributes:
        files: for each file its path relative to the source, and the name of its class.
        list_path: the list that names the files; None: a folder.
        lines: for each file its line in the list.
    """

    files: list[tuple[str, str]]
    list_path: epath.Path | None = None
    lines: Sequence[int] = ()

    def without(self, skip: Collection[str]) -> "_Found":
        """The same without the files of some classes."""
        kept = [i for i, (_, label) in enumerate(self.files) if label not in skip]
        lines = [self.lines[i] for i in kept] if self.list_path else ()
        return _Found([self.files[i] for i in kept], self.list_path, lines)

    def where(self, i: int) -> str:
        """The start of a message about one of the files."""
        return f"{tables.at(self.list_path, self.lines[i])}: " if self.list_path else ""


def _without_classes(splits: dict[str, _Found], skip: Sequence[str]) -> dict[str, _Found]:
    """The splits without the files of some classes."""
    classes = sorted({label for found in splits.values() for _, label in found.files})
    for name in skip:
        if name not in classes:
            raise ValueError(f"--skip={escape(name)}: {unknown_class(name, tuple(classes))}")
    if skip and len(set(classes) - set(skip)) < 2:
        raise ValueError(f"--skip={','.join(skip)}: must leave two classes or more of {escaping.first(classes, 10)}")
    return {split: found.without(skip) for split, found in splits.items()}


def _splits(root: epath.Path, layout: Layout, checked: bool) -> dict[str, _Found]:
    if layout.validation_pattern and layout.validation_share:
        raise ValueError("--validation_pattern and --validation_share: only one of them can divide the files")
    if layout.validation_share:
        return _by_share(root, layout.validation_share, layout.skip, checked)
    return _by_pattern(root, layout, checked) if layout.validation_pattern else _by_split(root, layout, checked)


def divide(groups: Mapping[str, list[_Example]], share: float) -> tuple[dict[str, list[_Example]], list[str]]:
    """Training and validation by --validation_share: the last examples of each class, at least one, are validation.

    Returns:
        (split -> its examples, the classes with only one example).

    Raises:
        ValueError: the share is impossible.
    """
    if not 0 < share < 1:
        raise ValueError(f"--validation_share={share}: must be between 0 and 1")
    splits: dict[str, list[_Example]] = {"train": [], "validation": []}
    for examples in groups.values():
        num_train = min(max(round(len(examples) * (1 - share)), 1), len(examples) - 1)
        splits["train"] += examples[:num_train]
        splits["validation"] += examples[num_train:]
    return splits, [label for label, examples in groups.items() if len(examples) < 2]


def _by_share(root: epath.Path, share: float, skip: Collection[str], checked: bool) -> dict[str, _Found]:
    groups: dict[str, list[tuple[str, str]]] = {}  # class -> (path, class)
    for path, label in _class_tree(root, root, "--source", checked):
        groups.setdefault(label, []).append((path, label))
    splits, lonely = divide(groups, share)
    lonely = [label for label in lonely if label not in skip]
    if lonely:
        raise ValueError(
            f"--validation_share={share}: a class needs two files, one to train and one to validate. In {escape(root)} "
            f"these have only one: {escaping.first(lonely, SHOWN_CLASSES)}. Add files, or leave out these classes: "
            f"--skip={escape(','.join(lonely))}"
        )
    return {split: _Found(pairs) for split, pairs in splits.items()}


def _by_pattern(root: epath.Path, layout: Layout, checked: bool) -> dict[str, _Found]:
    matches = re.compile(layout.validation_pattern).search
    splits: dict[str, list[tuple[str, str]]] = {"train": [], "validation": []}  # (path, class)
    for path, label in _class_tree(root, root, "--source", checked):
        splits["validation" if matches(path) else "train"].append((path, label))
    for split, pairs in splits.items():
        if not pairs:
            raise ValueError(f"--validation_pattern={layout.validation_pattern!r} leaves no file for {split} in {root}")
    return {split: _Found(pairs) for split, pairs in splits.items()}


def _by_split(root: epath.Path, layout: Layout, checked: bool) -> dict[str, _Found]:
    parts = {"train": (layout.train_folder, layout.train_list)}
    if layout.validation_folder or layout.validation_list:
        parts["validation"] = (layout.validation_folder, layout.validation_list)
    return {
        split: _read_list(root, folder, name, layout)
        if name
        else _split_folder(root, split, folder, checked and split == "train")
        for split, (folder, name) in parts.items()
    }


def _split_folder(root: epath.Path, split: str, folder: str, checked: bool) -> _Found:
    if not (root / folder).is_dir():
        raise FileNotFoundError(nesting.no_folder(root, folder, split))
    return _Found(_class_tree(root / folder, root, f"--{split}_folder", checked))


def _class_tree(folder: epath.Path, root: epath.Path, flag: str, checked: bool) -> list[tuple[str, str]]:
    """Path and class of all files of folder/CLASS/, at any depth, except hidden ones, sorted by name."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {escape(folder)}")
    paths = sorted(files.walk(folder))
    of_classes = [path for path in paths if "/" in path]
    if not of_classes:
        raise FileNotFoundError(nesting.no_classes(folder, paths))
    if checked:
        nesting.check_classes(folder, of_classes, flag)
    labels = list(dict.fromkeys(path.partition("/")[0] for path in of_classes))
    class_names.check(labels, f"{escape(folder)}: ")
    _print_left_out(folder, paths, labels)
    inside = (folder.relative_to(root) if folder.is_relative_to(root) else folder).as_posix()
    prefix = "" if inside == "." else f"{inside}/"
    return [(prefix + path, class_names.normalize(path.partition("/")[0])) for path in of_classes]


def _print_left_out(folder: epath.Path, paths: Sequence[str], labels: Sequence[str]) -> None:
    """Prints which media stand beside the folders of classes, and which of these folders are empty."""
    beside = [path for path in paths if "/" not in path and not nesting.is_no_media(path)]
    if beside:
        left_out = (
            f"{len(beside)} files that stand beside the folders of classes: {escaping.first(beside, SHOWN_FILES)}"
        )
        print(f"WARNING: {escape(folder)}: left out {left_out}", file=sys.stderr, flush=True)
    folders = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir())
    if empty := [name for name in folders if name not in labels]:
        left_out = f"{len(empty)} empty folders, which are no classes: {escaping.first(empty, SHOWN_CLASSES)}"
        print(f"WARNING: {escape(folder)}: left out {left_out}", file=sys.stderr, flush=True)


def _read_list(root: epath.Path, folder: str, name: str, layout: Layout) -> _Found:
    path = root / name
    entries = file_lists.read_list(path, layout.list_columns, layout.label_separator)
    placed = file_lists.resolve(path, entries, root, folder)
    pairs = [(place, label_of(path, entry, place)) for place, entry in zip(placed, entries, strict=True)]
    return _Found(pairs, path, [entry.line for entry in entries])


def label_of(path: epath.Path, entry: file_lists.Entry, place: str) -> str:
    """The class of a file as a list names it; if the list has no such column, the file's folder."""
    if entry.label is not None:
        return entry.label
    folder = place.rpartition("/")[0].rpartition("/")[2]
    if not folder:
        where = tables.at(path, entry.line)
        raise ValueError(f"{where}: {escape(place)} has no folder, and the list no column 'label'")
    return class_names.normalize(folder)


def check_separable(names: Sequence[str]) -> None:
    """Refuses classes of files with several classes whose names would be taken for two in refused.csv.

    Raises:
        ValueError: a name has `label_features.SEPARATOR` in it.
    """
    for name in names:
        if label_features.SEPARATOR in name:
            raise ValueError(f"class {quote(name)}: {label_features.SEPARATOR!r} separates classes; rename it")


def joined(labels: Sequence[str]) -> str:
    """The classes of a file in one text: `Item.label` of a file with several."""
    return label_features.SEPARATOR.join(labels)


def _labels(label: str, separator: str) -> tuple[str, ...]:
    """The classes that a list gives for a file, each once; it has one unless there is a separator."""
    if not separator:
        return (label,)
    return tuple(dict.fromkeys(part.strip() for part in label.split(separator) if part.strip()))


def _names_found(train: _Found, separator: str) -> class_names.ClassNames:
    """The classes of the training files, sorted by name. If they are numbers, they are sorted by number."""
    found = {label for _, labels in train.files for label in _labels(labels, separator)}
    where = f"{escape(train.list_path)}: " if train.list_path else ""
    return class_names.of_labels(found, where, by_number=train.list_path is not None)


def _items(found: _Found, known: class_names.ClassNames, separator: str) -> list[Item]:
    items = []
    for i, (path, label) in enumerate(found.files):
        names = tuple(_class(found, i, one, known) for one in _labels(label, separator))
        items.append(Item(path, joined(names), labels=names if separator else None))
    return items


def _class(found: _Found, i: int, label: str, known: class_names.ClassNames) -> str:
    """The name of one of the classes of a file."""
    where = f"{found.where(i)}{escape(found.files[i][0])}"
    try:
        name = known.find(label)
    except ValueError as error:
        raise ValueError(f"{where}: class {error}") from error
    if name is None:
        raise ValueError(f"{where}: {unknown_class(label, known.names)}")
    return name


def unknown_class(label: str, known: tuple[str, ...]) -> str:
    """What to say of a label that is none of the known classes."""
    near = list(known) if len(known) <= SHOWN_CLASSES else difflib.get_close_matches(label, known, SHOWN_CLASSES, 0)
    shown = ", ".join(escape(name) for name in near)
    most = "" if len(known) <= SHOWN_CLASSES else "; the nearest are"
    return f"class {quote(label)} is not one of the {len(known)} known{most}: {shown}"


def _check_distinct(splits: dict[str, _Found]) -> None:
    seen: dict[str, tuple[str, int]] = {}  # path -> (split, index in it)
    for split, found in splits.items():
        for i, (path, _) in enumerate(found.files):
            if path in seen:
                other, j = seen[path]
                before = splits[other].where(j).removesuffix(": ")
                first = f" (first in {before})" if before else ""
                raise ValueError(f"{found.where(i)}{escape(path)} is listed twice: in {other} and in {split}{first}")
            seen[path] = (split, i)
