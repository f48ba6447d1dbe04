"""A folder of media -> which files are in which split, and their classes."""

import csv
import dataclasses
import itertools
import re

from etils import epath

from data_pipelines import files


def _flag(default, help: str):
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the files are divided and labelled: the flags of `data_pipelines.prepare`, with what each means."""

    train_folder: str = _flag("train", "holds the training files, as CLASS/FILE")
    validation_folder: str = _flag("validation", "holds the validation files, as CLASS/FILE; empty: there are none")
    validation_pattern: str = _flag(
        "", "regular expression: files of the source's CLASS/FILE whose path it matches somewhere are validation"
    )
    validation_share: float = _flag(
        0.0, "share of each class of the source's CLASS/FILE that is validation: the last by name, so that neighbours, "
        "often cut from one recording, stay together"
    )  # fmt: skip
    train_list: str = _flag("", "file in the source that lists the training files, instead of all in --train_folder")
    validation_list: str = _flag("", "file in the source that lists the validation files")
    list_columns: tuple[str, ...] = _flag(
        ("path", "label"),
        "columns of the lists; path: in the split's folder if there is one, else in the source; "
        "label: a class, or its number in --class_names (no such column: the file's folder); others are ignored",
    )
    class_names: str = _flag("", "file in the source with a class, or its number and name, a line; else: those found")


@dataclasses.dataclass(frozen=True, slots=True)  # there may be millions
class Item:
    """A source file.

    Attributes:
        path: relative to the source folder; of a member of a tar, TAR/MEMBER.
        label: the name of its class; "" where the publisher keeps it.
        source_id: what it was cut from, a YouTube id; "" where that is not known.
        start_s: where in that it begins, in seconds.
        end_s: and ends.
        archive: the tar that holds it, relative to the source folder; "" for a file.
        span: its first byte in the tar, and how many there are.
        placeholders: what the brackets of its class's template stand for; None where classes have none.
    """

    path: str
    label: str
    source_id: str = ""
    start_s: float = 0.0
    end_s: float = 0.0
    archive: str = ""
    span: tuple[int, int] | None = None
    placeholders: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a source folder holds.

    Attributes:
        splits: split -> its files.
        class_names: in the order of the labels.
        missing: split -> what the publisher lists, but the folder does not have; `path` is what it would be called.
    """

    splits: dict[str, list[Item]]
    class_names: tuple[str, ...]
    missing: dict[str, list[Item]] = dataclasses.field(default_factory=dict)


def find(source: str, layout: Layout) -> Listing:
    """Lists a source folder.

    Raises:
        FileNotFoundError: the folder, one of its parts, or a list is missing.
        ValueError: a list does not read, a file is listed twice, or a class is unknown.
    """
    root = epath.Path(source)
    splits = _splits(root, layout)
    numbered = _read_class_names(root / layout.class_names) if layout.class_names else {}
    names = tuple(numbered.values()) or tuple(sorted({item.label for item in splits["train"]}))
    splits = {
        split: [Item(item.path, _resolve(item, numbered, names)) for item in items] for split, items in splits.items()
    }
    _check_distinct(splits)
    return Listing(splits, names)


def _splits(root: epath.Path, layout: Layout) -> dict[str, list[Item]]:
    if layout.validation_pattern and layout.validation_share:
        raise ValueError("--validation_pattern and --validation_share: only one of them can divide the files")
    if layout.validation_share:
        return _by_share(root, layout.validation_share)
    return _by_pattern(root, layout) if layout.validation_pattern else _by_split(root, layout)


def _by_share(root: epath.Path, share: float) -> dict[str, list[Item]]:
    if not 0 < share < 1:
        raise ValueError(f"--validation_share={share}: must be between 0 and 1")
    splits = {"train": [], "validation": []}
    for label, items in itertools.groupby(_class_tree(root, root), key=lambda item: item.label):
        items = list(items)
        if len(items) < 2:
            raise ValueError(f"--validation_share={share}: class {label!r} has one file alone, in {root}; it needs two")
        num_train = min(max(round(len(items) * (1 - share)), 1), len(items) - 1)
        splits["train"] += items[:num_train]
        splits["validation"] += items[num_train:]
    return splits


def _by_pattern(root: epath.Path, layout: Layout) -> dict[str, list[Item]]:
    matches = re.compile(layout.validation_pattern).search
    splits = {"train": [], "validation": []}
    for item in _class_tree(root, root):
        splits["validation" if matches(item.path) else "train"].append(item)
    for split, items in splits.items():
        if not items:
            raise ValueError(f"--validation_pattern={layout.validation_pattern!r} leaves no file for {split} in {root}")
    return splits


def _by_split(root: epath.Path, layout: Layout) -> dict[str, list[Item]]:
    parts = {"train": (layout.train_folder, layout.train_list)}
    if layout.validation_folder or layout.validation_list:
        parts["validation"] = (layout.validation_folder, layout.validation_list)
    return {
        split: _read_list(root, folder, name, layout.list_columns) if name else _split_folder(root, split, folder)
        for split, (folder, name) in parts.items()
    }


def _split_folder(root: epath.Path, split: str, folder: str) -> list[Item]:
    if not (root / folder).is_dir():
        raise FileNotFoundError(
            f"there is no folder {root / folder} for the {split} split; name it by --{split}_folder, list its files by "
            f"--{split}_list, or divide {root}/CLASS/FILE by --validation_share or --validation_pattern"
        )
    return _class_tree(root / folder, root)


def _class_tree(folder: epath.Path, root: epath.Path) -> list[Item]:
    """All files of folder/CLASS/, at any depth, hidden ones aside, in order of their names."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    items = [
        Item(_relative(folder / path, root), path.partition("/")[0])
        for path in sorted(files.walk(folder))
        if "/" in path
    ]
    if not items:
        raise FileNotFoundError(f"{folder} has no files of the form CLASS/FILE")
    return items


def _read_list(root: epath.Path, folder: str, name: str, columns: tuple[str, ...]) -> list[Item]:
    if "path" not in columns:
        raise ValueError(f"--list_columns={','.join(columns)} has no column 'path'")
    base = root / folder if (root / folder).is_dir() else root
    items = []
    for number, cells in _read_table(root / name):
        if len(cells) != len(columns):
            raise ValueError(
                f"{root / name}, line {number}: {len(cells)} columns instead of {len(columns)}, {','.join(columns)}"
            )
        row = dict(zip(columns, cells, strict=True))
        path = base / row["path"]
        items.append(Item(_relative(path, root), row.get("label", path.parent.name)))
    if not items:
        raise ValueError(f"{root / name} lists no files")
    return items


def _relative(path: epath.Path, root: epath.Path) -> str:
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _read_class_names(path: epath.Path) -> dict[str, str]:
    """What a list may call a class -> its name, in the order of the labels."""
    rows = [cells for _, cells in _read_table(path)]
    if all(len(cells) == 2 and cells[0].isdecimal() for cells in rows):
        return dict(sorted(rows, key=lambda cells: int(cells[0])))
    if all(len(cells) == 1 for cells in rows):
        return {str(label): cells[0] for label, cells in enumerate(rows)}
    raise ValueError(f"{path}: each line must be a class name, or a number and a class name")


def _read_table(path: epath.Path) -> list[tuple[int, list[str]]]:
    """Line numbers and cells of a text file, separated by tabs, else by commas, else by spaces."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    text = path.read_text()
    delimiter = next((candidate for candidate in "\t," if candidate in text), " ")
    reader = csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    return [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(cells)]


def _resolve(item: Item, numbered: dict[str, str], names: tuple[str, ...]) -> str:
    name = numbered.get(item.label, item.label)
    if name not in names:
        raise ValueError(f"{item.path}: class {item.label!r} is not one of the {len(names)} known: {', '.join(names)}")
    return name


def _check_distinct(splits: dict[str, list[Item]]) -> None:
    seen = {}
    for split, items in splits.items():
        for item in items:
            if item.path in seen:
                raise ValueError(f"{item.path} is listed twice: in {seen[item.path]} and in {split}")
            seen[item.path] = split
