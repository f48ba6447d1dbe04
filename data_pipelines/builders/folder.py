"""What `video_folder` and `image_folder` share: files in, records out; unusable files are refused, by name."""

import collections
import concurrent.futures
import csv
import dataclasses
import io
import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from tqdm import tqdm

from data_pipelines.builders import listing, schema
from data_pipelines.builders.media import Media

REFUSED_FILE = "refused.csv"
SHOWN_REASONS = 3


@dataclasses.dataclass(eq=False)
class FolderConfig(tfds.core.BuilderConfig):
    """A dataset made from a folder; its `name` is the dataset's.

    Attributes:
      source: the folder.
      layout: how its files are divided and labelled.
      options: arguments for the reader of a file.
      workers: processes that decode; 0: one a core.
    """

    source: str = ""
    layout: listing.Layout = dataclasses.field(default_factory=listing.Layout)
    options: dict = dataclasses.field(default_factory=dict)
    workers: int = 0

    def origin(self) -> dict:
        """What decides the records, as JSON: kept beside the data, so that another origin is noticed."""
        layout = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self.layout).items()}
        return {"source": str(Path(self.source).resolve()), **layout, **self.options}


class FolderBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base of the folder builders."""

    VERSION = tfds.core.Version("1.0.0")
    SELF_CONTAINED = False
    MODALITY: str
    OPTIONS: dict  # of the reader -> (default, what it is): more flags of `data_pipelines.prepare`
    READ: Callable[..., Media]  # (path, **options) -> what is stored of a file

    def _info(self):
        config = self.builder_config
        self._listing = listing.find(config.source, config.layout)
        self._refused = []
        description = f"A folder of {self.MODALITY}s, {config.source}."
        return schema.info(self, self._listing.class_names, self.MODALITY, description, origin=config.origin())

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self._listing.splits}

    def _generate_examples(self, split):
        items = self._listing.splits[split]
        for item, media in self._read_all(split, items):
            if isinstance(media, Media):
                yield item.path, _example(item, media)
            else:
                self._refused.append((split, item.path, media))
        self._report(split, len(items))

    def _read_all(self, split: str, items) -> Iterator[tuple[listing.Item, Media | str]]:
        """Each item, and what is stored of it or why not."""
        config = self.builder_config
        jobs = [(type(self).READ, str(Path(config.source) / item.path), config.options) for item in items]
        results = _parallel_map(_read_or_reason, jobs, config.workers or os.cpu_count())
        shown = tqdm(results, desc=f"{config.name} {split}", total=len(items), unit=self.MODALITY, mininterval=1)
        return zip(items, shown, strict=True)

    def _report(self, split: str, num_items: int) -> None:
        """Writes down what was refused so far, and fails if that is all of the split."""
        table = io.StringIO()
        csv.writer(table).writerows([("split", "path", "reason"), *self._refused])
        (self.data_path / REFUSED_FILE).write_text(table.getvalue())
        if sum(refused[0] == split for refused in self._refused) == num_items:
            reasons = "; ".join(f"{path}: {reason}" for _, path, reason in self._refused[-SHOWN_REASONS:])
            raise ValueError(f"none of the {num_items} files of the {split} split can be used ({reasons})")


def _example(item: listing.Item, media: Media) -> dict:
    return schema.example(
        frames=media.frames,
        label=item.label,
        source=item.path,
        source_sha256=media.sha256,
        fps=media.fps,
        num_source_frames=media.num_source_frames,
    )


def _read_or_reason(job) -> Media | str:
    read, path, options = job
    try:
        return read(path, **options)
    except Exception as error:  # decoders raise whatever they meet: each file's reason is written down instead
        return f"{type(error).__name__}: {error}"


def _parallel_map(function: Callable, jobs: Iterable, workers: int) -> Iterator:
    """map over processes, in order, with a bounded number of results waiting."""
    jobs, waiting = iter(jobs), collections.deque()
    spawn = multiprocessing.get_context("spawn")  # a forked copy of TensorFlow's threads would hang
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        while True:
            waiting.extend(pool.submit(function, job) for job in itertools.islice(jobs, 4 * workers - len(waiting)))
            if not waiting:
                return
            yield waiting.popleft().result()
