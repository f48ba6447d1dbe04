"""A folder of Hugging Face's `datasets`, as downloaded from the hub or saved; videos by default.

Three kinds are read, without the library `datasets`:

- Parquet files with a column of images or videos, as `push_to_hub` writes them;
- what `save_to_disk` wrote: `dataset_dict.json` or `state.json`, and Arrow files;
- media files with `metadata.csv`, `metadata.jsonl` or `metadata.parquet`, whose column `file_name` names them.

The split of a file comes from its name or folders, by the rules of `datasets` (huggingface/datasets,
src/datasets/data_files.py): `data/SPLIT-00000-of-00001.parquet`, else a folder called train, validation, test or by a
synonym, else such a word in the file's name, else all files are train. The names of classes come from the column's
description (ClassLabel). A folder of CLASS/FILE without metadata is read by `video_folder` and `image_folder`.
"""

import collections
import dataclasses
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath

from data_pipelines import cells, escaping, files
from data_pipelines.builders.formats import samples
from data_pipelines.escaping import escape
from data_pipelines.prepare import base, folder
from data_pipelines.prepare.listing import Item, Listing, flag
from data_pipelines.sources import class_names, tables

SPLIT_WORDS = {  # split -> words for it, as `datasets` has them
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_SHARDED = re.compile(r"data/(?P<split>\w+(\.\w+)*)-\d{5}-of-\d{5}.*")
_WORD = {split: re.compile(rf"(.*[-._ \d])?({'|'.join(words)})([-._ \d].*)?") for split, words in SPLIT_WORDS.items()}
_TYPES = {"Video": "video", "Image": "image"}  # of columns in `datasets` -> modality


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the samples are divided and labelled: flags of `data_pipelines.prepare`."""

    train_split: str = flag("train", "the split to train on")
    validation_split: str = flag("validation", "the split that is validation here, such as test; empty: there is none")
    validation_share: float = flag(0.0, "share of each class of --train_split that is validation: its last samples")
    modality: str = flag("video", "video or image: what the samples are")
    media_column: str = flag("", "the column of the media; needed if there are several")
    label_column: str = flag("", "the column of the labels; else the one of classes, or `label`")
    class_names: str = flag("", "file, per line a class, or its number and name; else: as described, or as found")
    incomplete: str = flag(samples.REFUSE, "what to do with samples without label or medium: refuse or skip")


class _HuggingFace(folder.FolderBuilder, skip_registration=True):
    LAYOUT = Layout
    SOURCE_HELP = "the folder of the dataset"

    @classmethod
    def for_layout(cls, layout):
        """The builder of the modality."""
        samples.check_choice("modality", layout.modality, samples.MODALITIES)
        return Images if layout.modality == "image" else Builder

    def _list(self, source):
        root = epath.Path(source)
        return root, find(root, self.builder_config.layout)


class Builder(base.VideoFiles, _HuggingFace, skip_registration=True):
    """Samples of a dataset in a form of Hugging Face."""

    name = "hugging_face"


class Images(base.ImageFiles, _HuggingFace, skip_registration=True):
    """Samples of a dataset in a form of Hugging Face."""

    name = "hugging_face"


def find(root: epath.Path, layout: Layout) -> Listing:
    """The samples of a folder.

    Raises:
        FileNotFoundError: there is no such folder, no such split, or nothing that is known in the folder.
        DamagedTableError: a table is cut off or damaged.
        ValueError: a flag is wrong, a column is missing, or samples are incomplete.
    """
    samples.check_choice("incomplete", layout.incomplete, (samples.REFUSE, samples.SKIP))
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {escape(root)}")
    paths = sorted(files.walk(root))
    by_split, read = _contents(root, paths)
    wanted = {"train": layout.train_split, "validation": layout.validation_split}
    if not layout.validation_split or layout.validation_share:
        del wanted["validation"]
    _check_splits(root, wanted, by_split)
    found, names = {}, None
    for split, called in wanted.items():
        incomplete = samples.Incomplete()
        found[split], described = read(root, by_split[called], layout, incomplete)
        incomplete.settle(f"{escape(root)}, split {escape(called)}", layout.incomplete, len(found[split]))
        names = names or described
    if layout.validation_share:
        found = samples.by_share(found["train"], layout.validation_share)
    return samples.listed(found, samples.read_names(root, layout.class_names) or names)


def _contents(root: epath.Path, paths: list[str]) -> tuple[dict[str, list[str]], Any]:
    """(split -> the files that describe it, the function that reads these)."""
    metadata = [path for path in paths if path.rpartition("/")[2] in METADATA]
    parquet = [path for path in paths if path.lower().endswith(".parquet") and path not in metadata]
    saved = _saved(root, paths)
    if saved:
        return saved, _of_tables
    if parquet:
        return split_by_name(parquet), _of_tables
    if metadata:
        return split_by_name(metadata, folders_only=True), _of_metadata
    raise FileNotFoundError(
        f"{escape(root)} has no Parquet files, no {', '.join(METADATA)}, and nothing that save_to_disk wrote. A folder "
        "of CLASS/FILE is prepared by `video_folder` or `image_folder`"
    )


def _saved(root: epath.Path, paths: Iterable[str]) -> dict[str, list[str]]:
    """Split -> the Arrow files of what `save_to_disk` wrote; {} if it wrote nothing here."""
    present = {path for path in paths if path.rpartition("/")[2] in ("state.json", "dataset_dict.json")}
    try:
        if "dataset_dict.json" in present:
            names = files.read_json(root / "dataset_dict.json", {"splits": [str]})["splits"]
            return {name: _saved_files(root, f"{name}/") for name in names}
        if "state.json" in present:
            return {"train": _saved_files(root, "")}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{escape(root)}: its dataset_dict.json or state.json is not one of `datasets`") from error
    return {}


def _saved_files(root: epath.Path, inside: str) -> list[str]:
    state = files.read_json(root / f"{inside}state.json", {"_data_files": [{"filename": str}]})
    return [f"{inside}{one['filename']}" for one in state["_data_files"]]


def split_by_name(paths: list[str], folders_only: bool = False) -> dict[str, list[str]]:
    """Split -> its files, by the names of files and folders.

    Args:
        paths: relative to the folder of the dataset.
        folders_only: the names of the files are not looked at.
    """
    by_shard: dict[str, list[str]] = collections.defaultdict(list)
    for path in paths:
        if match := _SHARDED.fullmatch(path):
            by_shard[match["split"]].append(path)
    places = [lambda path: path.split("/")[:-1], *([] if folders_only else [lambda path: path.split("/")[-1:]])]
    found = [by_shard] if by_shard else [_by_word(paths, place) for place in places]
    chosen = next((splits for splits in found if splits), {"train": paths})
    if left_out := sorted(set(paths).difference(*chosen.values())):
        samples.print_warning(f"{len(left_out)} files belong to no split: {escaping.first(left_out, samples.SHOWN)}")
    return chosen


def _by_word(paths: list[str], place: Any) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = collections.defaultdict(list)
    for path in paths:
        of = [split for part in place(path) for split, word in _WORD.items() if word.fullmatch(part.lower())]
        if of:
            splits[of[-1]].append(path)
    return splits


def _check_splits(root: epath.Path, wanted: dict[str, str], found: dict[str, list[str]]) -> None:
    for split, called in wanted.items():
        if called not in found:
            share = "; or give --validation_share, or --validation_split=''" if split == "validation" else ""
            raise FileNotFoundError(
                f"--{split}_split={called}: {escape(root)} has the splits {escaping.first(sorted(found), 10)}; "
                f"name one of them{share}"
            )


def _of_tables(
    root: epath.Path, paths: list[str], layout: Layout, incomplete: samples.Incomplete
) -> tuple[list[Item], class_names.ClassNames | None]:
    """The samples of tables, and their classes if they are described."""
    items: list[Item] = []
    columns, named = None, None
    for path in paths:
        table = cells.Table(root / path)
        try:
            chosen = (_media_column(root / path, table, layout), *_label_column(root / path, table, layout))
            columns = columns or chosen
            if chosen != columns:
                raise ValueError(
                    f"{escape(root / path)} has other columns or classes than {escape(root / paths[0])}: they are of "
                    "different datasets; name the folder of one of them"
                )
            media, label, names = chosen
            named = named or names
            items += _of_table(root, path, table, media, label, names, incomplete)
        finally:
            table.close()
    return items, class_names.ClassNames(named, {}, {}) if named and not layout.class_names else None


def _media_column(path: epath.Path, table: cells.Table, layout: Layout) -> str:
    described = {name: _TYPES[of["_type"]] for name, of in table.described.items() if of.get("_type") in _TYPES}
    if layout.media_column:
        _check_column(path, "media_column", layout.media_column, table.names)
        return layout.media_column
    candidates = [name for name in table.media_columns() if described.get(name, layout.modality) == layout.modality]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise ValueError(
            f"{escape(path)} has {layout.modality}s in {', '.join(candidates)}: name one by --media_column"
        )
    others = ", ".join(f"{kind}s in {escape(name)}: --modality={kind}" for name, kind in described.items())
    others = others or f"columns {escaping.first(table.names, 10)}"
    raise ValueError(f"{escape(path)} has no column of {layout.modality}s, but {others}")


def _label_column(path: epath.Path, table: cells.Table, layout: Layout) -> tuple[str, tuple[str, ...]]:
    """The column of the labels, and the names of its classes; () if they are not described."""
    described = {
        name: tuple(map(class_names.normalize, of["names"]))
        for name, of in table.described.items()
        if name in table.names and of.get("_type") == "ClassLabel" and _are_texts(of.get("names"))
    }
    if layout.label_column:
        _check_column(path, "label_column", layout.label_column, table.names)
        return layout.label_column, described.get(layout.label_column, ())
    candidates = list(described) or [name for name in ("label", "labels", "class") if name in table.names][:1]
    if len(candidates) != 1:
        raise ValueError(
            f"{escape(path)} has {'several columns' if candidates else 'no column'} of labels: name one of "
            f"{escaping.first(candidates or table.names, 10)} by --label_column"
        )
    return candidates[0], described.get(candidates[0], ())


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _check_column(path: epath.Path, what: str, name: str, names: list[str]) -> None:
    if name not in names:
        raise ValueError(f"--{what}={name}: {escape(path)} has the columns {escaping.first(names, 20)}")


def _of_table(
    root: epath.Path, path: str, table: cells.Table, media: str, label: str, names: tuple[str, ...],
    incomplete: samples.Incomplete,
) -> Iterator[Item]:  # fmt: skip
    """The samples of one table."""
    is_struct = media in table.media_columns()
    beside = is_struct and table.num_without_bytes(media) == table.num_rows  # the media are files that it names
    size = table.cell_bytes(media)
    columns = [label, *([f"{media}.path"] if is_struct else [])]
    for row, values in enumerate(table.rows(columns)):
        file = (values.get(media) or {}).get("path") or ""
        source = f"{path}/{row:07d}" + (f"/{os.path.basename(file)}" if file else "")
        name = _name(values[label], names)
        if not isinstance(name, _Fault) and beside:
            place = _beside(root, path, file)
            if place:
                yield Item(place, name)
                continue
            name = _Fault("have no bytes, and the file that they name is not there")
        if isinstance(name, _Fault):
            incomplete.add(name.reason, source)
        else:
            yield Item(source, name, archive=path, span=(row, size), column=media)


@dataclasses.dataclass(frozen=True)
class _Fault:
    """Why a sample cannot be used: what stands between "samples" and their names."""

    reason: str


def _name(value: Any, names: tuple[str, ...]) -> str | _Fault:
    """The class of a sample, by its label's value."""
    if names and isinstance(value, int) and not isinstance(value, bool):
        return names[value] if 0 <= value < len(names) else _Fault(f"have a label that is not 0 to {len(names) - 1}")
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        return _Fault("have no label" if value in (None, "") else "have a label that is neither a text nor a number")
    return class_names.normalize(value.strip()) if isinstance(value, str) else str(value)


def _beside(root: epath.Path, table: str, file: str) -> str:
    """A file that a table names, relative to the folder of the dataset; "" if it is not there."""
    folder_of_table = table.rpartition("/")[0]
    places = [f"{folder_of_table}/{file}".lstrip("/"), file]
    return next((place for place in places if file and (root / place).is_file()), "")


def _of_metadata(
    root: epath.Path, paths: list[str], layout: Layout, incomplete: samples.Incomplete
) -> tuple[list[Item], None]:
    """The samples of media files with metadata."""
    items = []
    for path in paths:
        for line, row in _rows(root / path):
            media = layout.media_column or _file_column(root / path, row)
            label = layout.label_column or "label"
            _check_column(root / path, "label_column", label, list(row))
            _check_column(root / path, "media_column", media, list(row))
            place = _beside(root, path, row[media] if isinstance(row[media], str) else "")
            name = _name(row[label], ())
            if not place:
                incomplete.add("name a file that is not there", f"{tables.at(path, line)}")
            elif isinstance(name, _Fault):
                incomplete.add(name.reason, place)
            else:
                items.append(Item(place, name))
    return items, None


def _file_column(path: epath.Path, row: dict[str, Any]) -> str:
    candidates = [name for name in row if name == "file_name" or name.endswith("_file_name")]
    if len(candidates) != 1:
        raise ValueError(
            f"{escape(path)} has {len(candidates)} columns that name files, file_name or NAME_file_name, instead of "
            f"one: name one of {escaping.first(list(row), 10)} by --media_column"
        )
    return candidates[0]


def _rows(path: epath.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file of metadata, with their line."""
    if path.name.endswith(".parquet"):
        table = cells.Table(path)
        yield from enumerate(table.rows(table.names), 1)
    elif path.name.endswith(".csv"):
        yield from tables.read_records(path, (), "the metadata of the files beside it")
    else:
        yield from tables.read_json_lines(path)
