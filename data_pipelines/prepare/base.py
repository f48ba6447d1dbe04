"""The base of all media builders: reads files, writes records, and lists missing and unusable files by name."""

import collections
import csv
import hashlib
import inspect
import io
import os
import types
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath
from tqdm import tqdm

from data_pipelines import archives, catalog, escaping, files
from data_pipelines.media import media_file
from data_pipelines.media.media_file import Media
from data_pipelines.prepare import listing, on_beam, schema, worker_pool
from data_pipelines.sources import label_features

REFUSED_COLUMNS = ("split", "path", "reason", "label")
MISSING = "missing"  # the reason for a file that the publisher lists but that is not in the source folder
SHOWN_REASONS = 3
SOURCE_HASH = "source_path_sha256"
STORAGE = ("short_side_px", "fps")  # the options that change the stored frames
# What a model of 448 px needs with crops: TimeSformer-HR is trained on shorter sides of 448 to 512
# (facebookresearch/TimeSformer, configs/Kinetics/TimeSformer_divST_16x16_448.yaml).
SHORT_SIDE_PX = 512


class VideoFiles:
    """How a builder reads videos."""

    MODALITY = "video"
    OPTIONS = {  # option of the reader -> (default, description); also flags of `data_pipelines.prepare`
        "short_side_px": (SHORT_SIDE_PX, "shorter side of the stored frames; smaller ones are not enlarged"),
        "fps": (10.0, "frames stored per second; if the file has fewer, all are stored"),
        "form": ("frames", "frames: JPEGs, fast to read; video: files, a few times smaller and several times slower"),
    }
    READ = staticmethod(media_file.read_video)
    CHUNK_FILES = 32  # files per chunk (see `worker_pool`); a killed preparation can lose this much work per worker


class ImageFiles:
    """How a builder reads images."""

    MODALITY = "image"
    OPTIONS = {"short_side_px": (SHORT_SIDE_PX, "shorter side of the stored images; smaller ones are not enlarged")}
    READ = staticmethod(media_file.read_image)
    CHUNK_FILES = 1024


class MediaBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  # TFDS's
    """Base of the builders that read files: lists and reads them in parallel, and continues after an interruption.

    Each builder also inherits from `VideoFiles` or `ImageFiles`.
    """

    VERSION = tfds.core.Version("1.0.0")
    SELF_CONTAINED = False
    HAS_PLACEHOLDERS = False  # whether its items have placeholders
    SPLIT_RULE = ""  # what to say of a split that has no file, if the builder itself divides the files

    def __init_subclass__(cls, skip_registration: bool = False, **kwargs: Any) -> None:
        """The same as in TFDS, which has no types."""
        super().__init_subclass__(skip_registration=skip_registration, **kwargs)

    def __init__(self, *, options: dict | None = None, workers: int = 0, **kwargs):
        """Makes a builder. See `tfds.core.DatasetBuilder` for the other arguments.

        Args:
            options: arguments for the reader that were asked for. The others are those of OPTIONS; a dataset that is
                already prepared may have been prepared with others.
            workers: number of processes that decode; 0: one per core.
        """
        self._asked = options or {}
        self._options = {name: default for name, (default, _) in self.OPTIONS.items()} | (options or {})
        if self._form not in media_file.FORMS:
            raise ValueError(f"form={self._form!r}: must be one of {', '.join(media_file.FORMS)}")
        self._workers = workers or os.cpu_count() or 1
        self._refused: list[tuple[str, ...]] = []  # split, path, reason, label
        self._on_beam = False
        super().__init__(**kwargs)

    @property
    def several_labels(self) -> bool:
        """Whether a record may have any number of labels: then its items have `labels`."""
        return False

    @property
    def _form(self) -> str:
        return self._options.get("form", "frames")

    def origin(self) -> dict:
        """All settings that determine the records, as JSON. Stored beside the data, so that a change is detected."""
        return self._options

    def asked_origin(self) -> dict:
        """As `origin`, without the options that nobody asked for."""
        return {name: value for name, value in self.origin().items() if name not in self.OPTIONS or name in self._asked}

    def discard_work(self) -> None:
        """Deletes the intermediate results of a preparation; they are useless after the dataset is complete."""
        self._work_dir.rmtree(missing_ok=True)

    def sources(self, manual_dir: epath.Path) -> tuple[worker_pool.Reader, listing.Listing]:
        """The reader that a preparation would use, and the files that it would read."""
        source, found = self._find(types.SimpleNamespace(manual_dir=manual_dir))
        return self._reader(source), found

    def _reader(self, source: epath.Path) -> worker_pool.Reader:
        return worker_pool.Reader(type(self).READ, self._options, os.fspath(source), os.fspath(self._work_dir))

    def _find(self, dl_manager) -> tuple[epath.Path, listing.Listing]:
        """The source folder and its listing."""
        raise NotImplementedError

    def _info(self):
        description = inspect.getdoc(type(self)) or ""
        return schema.info(
            self, None, self.MODALITY, description, self._form, self.HAS_PLACEHOLDERS, self.several_labels
        )

    def _download_and_prepare(self, dl_manager, download_config):
        self._on_beam = bool(download_config.beam_options or download_config.beam_runner)
        with worker_pool.work_folder(self._work_dir):
            if not files.is_remote(self.data_path):  # a remote folder has no lock, so another process may be writing
                self._discard_incomplete()
            super()._download_and_prepare(dl_manager, download_config)
            self._write_refused()

    def _post_download_and_prepare_hook(self):
        self.discard_work()

    def _split_generators(self, dl_manager):
        source, found = self._find(dl_manager)
        (label,) = label_features.find(dict(self.info.features)).values()
        label.names = list(found.class_names)
        listed = {split: len(items) + len(found.missing.get(split, ())) for split, items in found.splits.items()}
        self.info.metadata.update(origin={**describe_source(source), **self.origin()}, listed=listed)
        return {split: self._generate_examples(split, source, found) for split in found.splits}

    def _generate_examples(self, split, source, found):
        items, missing = found.splits[split], found.missing.get(split, [])
        self._refused += [(split, item.source, MISSING, item.label) for item in missing]
        if not items and not missing:
            raise ValueError(f"of the files in {escaping.escape(source)} none is in the {split} split{self.SPLIT_RULE}")
        if not items:
            raise ValueError(
                f"none of the {len(missing)} files that are listed for the {split} split are in {source} "
                f"(the first: {escaping.escape(missing[0].path)})" + archives.how_to_unpack(sorted(files.walk(source)))
            )
        reader = self._reader(source)
        parts = worker_pool.cut(items, self.CHUNK_FILES)
        if self._on_beam:
            return on_beam.examples(split, reader, parts, example, self._refused_of(split))
        return self._read_here(split, reader, parts, len(items))

    def _read_here(self, split: str, reader: worker_pool.Reader, parts, num_items: int) -> Iterator[tuple[str, dict]]:
        """The split's examples, read by processes on this machine, with a progress bar."""
        reasons = []
        with tqdm(desc=f"{self.info.full_name} {split}", total=num_items, unit=self.MODALITY, mininterval=1) as bar:
            for outcomes in worker_pool.read_all(reader, parts, self._workers):
                for item, outcome in outcomes:
                    if isinstance(outcome, Media):
                        yield escaping.escape(item.source), example(item, outcome)
                    else:
                        reasons.append((split, item.source, outcome, item.label))
                bar.update(len(outcomes))
        self._refused += reasons
        if len(reasons) == num_items:
            shown = "; ".join(f"{escaping.escape(path)}: {reason}" for _, path, reason, _ in reasons[:SHOWN_REASONS])
            raise ValueError(f"none of the {num_items} files of the {split} split can be used ({shown})")

    @property
    def _work_dir(self) -> epath.Path:
        return self.data_path.parent / f"work.{self.version}"

    def _refused_of(self, split: str) -> epath.Path:
        return self._work_dir / f"{split}.{catalog.REFUSED_FILE}"

    def _discard_incomplete(self) -> None:
        """Deletes incomplete files that killed preparations of this dataset left."""
        for folder in self.data_path.parent.glob(f"incomplete.*_{self.version}"):
            if folder != self.data_path:
                folder.rmtree(missing_ok=True)

    def _write_refused(self) -> None:
        for split in self.info.splits if self._on_beam else ():
            self._refused += on_beam.read_refused(self._refused_of(split))
        table = io.StringIO()
        csv.writer(table).writerows([REFUSED_COLUMNS, *(map(escaping.csv_cell, row) for row in self._refused)])
        (self.data_path / catalog.REFUSED_FILE).write_text(table.getvalue())


def describe_source(source: os.PathLike | str) -> dict[str, str]:
    """The source folder in `MediaBuilder.origin`: its name, and a hash that tells folders of one name apart."""
    path = os.fspath(source if files.is_remote(source) else epath.Path(source).resolve())
    return {"source": files.public_name(source), SOURCE_HASH: hashlib.sha256(os.fsencode(path)).hexdigest()}


def read_refused(where: epath.Path) -> dict[str, list[dict[str, str]]]:
    """Split -> files that are listed but not in a prepared dataset: `path`, `reason` and, if it is known, `label`.

    Raises:
        DamagedFileError: the table in the folder of the dataset cannot be read.
    """
    path, refused = where / catalog.REFUSED_FILE, collections.defaultdict(list)
    try:
        for row in csv.DictReader(files.read_small(path).decode().splitlines()) if path.exists() else ():
            label = escaping.unescape(row.get("label", "") or "")
            found = {"path": row["path"], "label": label, "reason": row["reason"]}
            if not all(isinstance(value, str) for value in (row["split"], *found.values())):
                raise KeyError("a line is too short")
            refused[row["split"]].append(found)
    except (KeyError, csv.Error, UnicodeDecodeError) as error:
        raise files.DamagedFileError(f"{path} is damaged: {type(error).__name__}: {error}; restore it") from error
    return refused


def example(item: listing.Item, read: Media) -> dict:
    """The record of a file."""
    return schema.example(
        frames=read.frames if read.form == "frames" else read.frames[0],
        label=(item.label or -1) if item.labels is None else item.labels,
        source=escaping.escape(item.source),
        source_sha256=read.sha256,
        fps=read.fps,
        num_source_frames=read.num_source_frames,
        source_id=item.source_id,
        source_start_s=item.start_s,
        source_end_s=item.end_s,
        placeholders=item.placeholders and [escaping.escape_text(text) for text in item.placeholders],
    )
