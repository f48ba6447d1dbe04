"""Folders of classes: what is wrong with one whose classes are not where they should be, and what would be right."""

import os
import re
from collections.abc import Iterable, Sequence

from etils import epath

from data_pipelines.escaping import escape, quote

SHOWN = 4  # names in a message
_IF_RIGHT = "If these are the classes all the same, list their names in a file by --class_names"
_TRAIN, _VALIDATION, _OTHER = "train", "validation", "other"
_SPLITS = {
    _TRAIN: re.compile(r"(train|training|trainval|trn)(ing)?([-_ ]?(set|data|split|videos?|images?|frames|\d+))*"),
    _VALIDATION: re.compile(r"(val|valid|validation|validate|dev)([-_ ]?(set|data|split|videos?|images?|frames|\d+))*"),
    "test": re.compile(r"(test|testing|eval|evaluation|holdout)([-_ ]?(set|data|split|videos?|images?|frames|\d+))*"),
    _OTHER: re.compile(r"(part|fold|split|shard|chunk|batch|set|subset|disk|vol|volume)[-_ ]?\d+"),
}
_NO_MEDIA = re.compile(  # by the ending of their names
    r".*\.(csv|tsv|txt|jsonl?|xml|ya?ml|md|rst|html?|pdf|docx?|xlsx?|log|np[yz]|pkl|pickle|pth?|h5|hdf5|parquet|zip|tar|gz|"
    r"tgz|bz2|xz|7z|rar|py|sh|m|mat|srt|vtt|ann|db|sqlite|ini|cfg)",
    re.IGNORECASE | re.DOTALL,
)


def check_classes(folder: epath.Path, paths: Sequence[str], flag: str) -> None:
    """Refuses a folder whose first level is not its classes.

    Args:
        folder: the folder.
        paths: its files, relative to it, with a folder each.
        flag: what names the folder, such as "--train_folder": the flag to change.

    Raises:
        ValueError: the classes are splits, there is only one, or one holds no media; the message has what was found,
            and the flag or folder that is right.
    """
    classes = list(dict.fromkeys(path.partition("/")[0] for path in paths))
    if _are_splits(classes):
        raise ValueError(
            f"{_found(folder, classes)}: these look like splits, not like classes. "
            f"{_name_splits(folder, classes)}. {_IF_RIGHT}"
        )
    if len(classes) == 1:
        raise ValueError(f"{_only_one(folder, classes[0], paths, flag)}. {_IF_RIGHT}")
    for name in _without_media(paths, classes):
        suffixes = sorted({os.path.splitext(path)[1].lower() for path in paths if path.startswith(f"{name}/")})
        raise ValueError(
            f"{_found(folder, classes)}: {quote(name)} has no video or image, but {', '.join(suffixes[:SHOWN])}. "
            f"Move it out of {escape(folder)}, which must hold classes alone"
        )


def no_classes(folder: epath.Path, paths: Sequence[str]) -> str:
    """What to say of a folder without files of the form CLASS/FILE; `paths` are its files."""
    message = f"{escape(folder)} has no files of the form CLASS/FILE"
    if not paths:
        return f"{message}: it is empty"
    return (
        f"{message}: {len(paths)} files, such as {escape(sorted(paths)[0])}, stand in it directly. If it is one "
        "of the classes, name the folder above it; if there are no folders of classes, name the files by a list: "
        "--train_list, --validation_list"
    )


def no_folder(root: epath.Path, folder: str, split: str) -> str:
    """What to say where a split's folder is missing: what there is instead, and the flag for it."""
    if not root.is_dir():
        return f"there is no folder {escape(root)}"
    inside = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    wanted = (_TRAIN,) if split == _TRAIN else (_VALIDATION, "test")
    of_split = [name for name in inside if _split_at_end(name) in wanted]
    start = (
        f"there is no folder {escape(root / folder)} for the {split} split; name it by --{split}_folder, list "
        f"its files by --{split}_list, or divide {escape(root)}/CLASS/FILE by --validation_share or "
        "--validation_pattern"
    )
    if of_split:
        flags = " or ".join(f"--{split}_folder={escape(name)}" for name in of_split[:SHOWN])
        return f"{start}. There is {_some(of_split)}: {flags}"
    deeper = [name for name in inside if (root / name / folder).is_dir()]
    if deeper:
        return f"{start}. There is {escape(deeper[0])}/{folder}: --source={escape(root / deeper[0])}"
    if _split_at_end(root.name) == _TRAIN and split == _TRAIN:
        return f"{start}. {escape(root)} looks like the split itself: --source={escape(root.parent)}"
    return f"{start}. There is {_some(inside)}" if inside else f"{start}. There are no folders in {escape(root)}"


def _are_splits(classes: Sequence[str]) -> bool:
    """Whether folders are splits or parts: all are called like one, or some are of training and of evaluation."""
    splits = [split_of(name) for name in _without_prefix(classes)]
    return all(splits) or (_TRAIN in splits and ("test" in splits or _VALIDATION in splits))


def _without_prefix(classes: Sequence[str]) -> list[str]:
    """Names without what all begin with: "k400_train" and "k400_val" are splits, "freight_train" alone is not."""
    match = re.match(r".*[-_ ]", os.path.commonprefix(list(classes))) if len(classes) > 1 else None
    prefix = match[0] if match else ""
    return [name.removeprefix(prefix) for name in classes]


def split_of(name: str) -> str:
    """The split that a folder is called after; "" if it is none."""
    return next((split for split, pattern in _SPLITS.items() if pattern.fullmatch(name.lower())), "")


def _split_at_end(name: str) -> str:
    """The same, also of "k400_train"."""
    return split_of(name) or split_of(re.split("[-_ ]", name)[-1])


def _name_splits(folder: epath.Path, classes: Sequence[str]) -> str:
    splits = {split_of(bare): name for bare, name in reversed([*zip(_without_prefix(classes), classes, strict=True)])}
    if _TRAIN not in splits:
        return f"Name one of them by --source, or move their classes into one folder: {escape(folder)}/CLASS/FILE"
    other = splits.get(_VALIDATION) or splits.get("test")
    validation = f"--validation_folder={escape(other)}" if other else "--validation_folder=''"
    return (
        f"Give --source={escape(folder)} --train_folder={escape(splits[_TRAIN])} {validation}, without "
        "--validation_share and --validation_pattern"
    )


def _only_one(folder: epath.Path, name: str, paths: Iterable[str], flag: str) -> str:
    """What to say of one class alone: the folder below it that holds several, if there is one."""
    inside = [path.split("/")[:-1] for path in paths]
    common = os.path.commonprefix(inside)
    below = list(dict.fromkeys(parts[len(common)] for parts in inside if len(parts) > len(common)))
    found = f"{_found(folder, [name])}: one class alone"
    if len(below) < 2:
        return f"{found}. If {escape(folder)} is a class itself, give the folder above it by {flag}"
    right = folder.joinpath(*common)
    if _are_splits(below):
        return f"{found}. In {escape(right)} are {_some(below)}, like splits. {_name_splits(right, below)}"
    return f"{found}. The classes seem to be those in {escape(right)}: {_some(below)}. Give that folder by {flag}"


def is_no_media(path: str) -> bool:
    """Whether a file is certainly neither a video nor an image, by the ending of its name."""
    return bool(_NO_MEDIA.fullmatch(path))


def _without_media(paths: Iterable[str], classes: Iterable[str]) -> list[str]:
    """Folders that hold lists, archives or other files that are certainly no media, and nothing else."""
    kept = {path.partition("/")[0] for path in paths if not is_no_media(path)}
    return [name for name in classes if name not in kept] if kept else []


def _found(folder: epath.Path, classes: Sequence[str]) -> str:
    return f"the folders of {escape(folder)} are {_some(classes)}"


def _some(found: Sequence[str]) -> str:
    shown = ", ".join(escape(name) for name in found[:SHOWN])
    return f"{shown} and {len(found) - SHOWN} more" if len(found) > SHOWN else shown
