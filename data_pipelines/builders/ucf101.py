"""UCF101 (arXiv 1212.0402): the publisher's UCF-101/ folder of clips and its ucfTrainTestlist/ of three splits.

`ucf101/1` uses trainlist01.txt for train and testlist01.txt for validation. A label is a class's number in classInd.txt
minus one. Clips are found by name, so the mp4 files of a mirror work as well.
"""

import re
from collections.abc import Iterator

import tensorflow_datasets as tfds
from etils import epath

from data_pipelines import files
from data_pipelines.escaping import quote
from data_pipelines.prepare import base, publisher
from data_pipelines.prepare.listing import Item, Listing
from data_pipelines.sources import tables

CLASSES = "classInd.txt"
LISTS = {"train": "trainlist0{}.txt", "validation": "testlist0{}.txt"}


class Builder(base.VideoFiles, publisher.PublisherBuilder, skip_registration=True):
    """UCF101: clips of 101 human actions, from YouTube, in groups of one scene each."""

    name = "ucf101"
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("1", "2", "3")]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "UCF-101/CLASS/v_CLASS_gGG_cCC.avi and ucfTrainTestlist/ (classInd.txt, the lists)"

    def _list(self, source):
        return find(source, self._splits, int(self.builder_config.name))


def find(source: epath.Path, splits: tuple[str, ...], number: int) -> Listing:
    """Finds the lists of one of the three divisions, and the clips.

    Raises:
        FileNotFoundError: a list is missing.
        ValueError: a split is not published, there are two lists with one name, or a list cannot be parsed.
    """
    unpublished = sorted(set(splits) - set(LISTS))
    if unpublished:
        raise ValueError(f"UCF101 has no {', '.join(unpublished)} split; its testlist is prepared as validation")
    paths = list(files.walk(source))
    names_found = publisher.read_class_names(_file(source, paths, CLASSES), "NUMBER CLASS", first=1)
    clips = dict(publisher.videos(paths))
    listing = Listing({}, names_found, {})
    for split in splits:
        items = list(_read_list(_file(source, paths, LISTS[split].format(number)), split, names_found))
        found = [(item, clips.get(stem)) for stem, item in items]
        listing.splits[split] = [Item(path, item.label) for item, path in found if path]
        listing.missing[split] = [item for item, path in found if not path]
    return listing


def _file(source: epath.Path, paths: list[str], name: str) -> epath.Path:
    found = publisher.named(paths, re.escape(name))
    return source / publisher.the_one(found, name, source, "it is in UCF101TrainTestSplits-RecognitionTask.zip")


def _read_list(path: epath.Path, split: str, names_found: tuple[str, ...]) -> Iterator[tuple[str, Item]]:
    """Name and item of each clip of a list, whose lines are CLASS/NAME.avi or CLASS/NAME.avi NUMBER."""
    listed = publisher.ListedFiles(path, split)
    for number, line in tables.read_lines(path):
        match = re.fullmatch(r"(?P<path>(?P<label>\w+)[/\\](?P<stem>\S+)\.avi)(\s+\d+)?", line)
        if not match or match["label"] not in names_found:
            raise ValueError(
                f"{tables.at(path, number)}: {quote(line)} is not CLASS/NAME.avi with a class of {CLASSES}"
            )
        listed.add(match["stem"], Item(match["path"].replace("\\", "/"), match["label"]), f"line {number}")
    return iter(listed.values.items())
