"""What the builders of published datasets share: each reads what its publisher distributes, from `manual_dir`."""

import re
from collections.abc import Iterable, Iterator

from etils import epath

from data_pipelines.prepare import base, listing

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".flv", ".3gp")
SPLITS = ("train", "validation", "test")


class PublisherBuilder(base.MediaBuilder, skip_registration=True):
    """Base of the builders of published datasets."""

    def __init__(self, *, splits: tuple[str, ...] = ("train", "validation"), **kwargs):
        """Makes a builder; see `base.MediaBuilder` for the other arguments.

        Args:
            splits: which of the publisher's to prepare.
        """
        unknown = sorted(set(splits) - set(SPLITS))
        if unknown or not splits:
            raise ValueError(f"splits {','.join(splits)!r}: must be some of {', '.join(SPLITS)}")
        self._splits = tuple(splits)
        super().__init__(**kwargs)

    def origin(self):
        return {"splits": list(self._splits), **super().origin()}

    def _find(self, dl_manager):
        source = source_folder(dl_manager.manual_dir, self.name, self.builder_config_name)
        return source, self._list(source)

    def _list(self, source: epath.Path) -> listing.Listing:
        """Finds the publisher's files in the source folder, at any depth."""
        raise NotImplementedError


def source_folder(manual_dir: epath.Path, name: str, config: str | None) -> epath.Path:
    """The folder of one dataset: MANUAL/NAME/CONFIG, MANUAL/CONFIG or MANUAL/NAME, if there is one, else MANUAL."""
    inside = [f"{name}/{config}", config, name] if config else [name]
    return next((manual_dir / path for path in inside if (manual_dir / path).is_dir()), manual_dir)


def named(paths: Iterable[str], pattern: str) -> list[str]:
    """The files whose whole name a regular expression matches, whatever their folders."""
    return [path for path in paths if re.fullmatch(pattern, path.rpartition("/")[2])]


def videos(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The name without ending, and the path, of each file that is a video by its ending."""
    for path in paths:
        stem, dot, suffix = path.rpartition("/")[2].rpartition(".")
        if dot + suffix.lower() in VIDEO_SUFFIXES:
            yield stem, path


def the_one(paths: list[str], name: str, source: epath.Path, what: str) -> str:
    """The only one of the paths.

    Args:
        paths: those that were found.
        name: what was looked for.
        source: where.
        what: a hint on where to get it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are several.
    """
    if not paths:
        raise FileNotFoundError(f"there is no {name} in {source}, at any depth: {what}")
    if len(paths) > 1:
        raise ValueError(f"there are several {name} in {source}: {', '.join(sorted(paths))}; leave one of them there")
    return paths[0]


def check_num_classes(names, expected: int, where: str) -> None:
    """Refuses the lists of another dataset.

    Raises:
        ValueError: the number of classes is wrong.
    """
    if len(names) != expected:
        raise ValueError(f"{where} has {len(names)} classes instead of {expected}: is it that of another dataset?")


def check_known(labels: Iterable[str], names: tuple[str, ...], split: str, where: str) -> None:
    """Refuses labels that are no classes; those of the test split may be "", kept by the publisher.

    Raises:
        ValueError: with some of them.
    """
    unknown = sorted({label for label in labels if label or split != "test"} - set(names))
    if unknown:
        raise ValueError(f"{where} has {len(unknown)} unknown classes, such as {', '.join(map(repr, unknown[:3]))}")


def ordered(index_of: dict[str, int], where: str) -> tuple[str, ...]:
    """Class names in the order of the publisher's indices.

    Raises:
        ValueError: these are not 0, 1, 2, ...
    """
    names = tuple(sorted(index_of, key=index_of.get))
    if [index_of[name] for name in names] != list(range(len(names))):
        raise ValueError(f"{where}: the indices of the {len(names)} classes are not 0 to {len(names) - 1}, each once")
    return names
