"""Builds datasets: chooses the builder and the source, and writes the records with their offset indices."""

import argparse
import dataclasses
import errno
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from data_pipelines import catalog, escaping, files
from data_pipelines.prepare import base, folder, listing, publisher, worker_pool
from data_pipelines.prepare import flags as prepare_flags
from data_pipelines.sources import class_names, label_features

_TFDS_DISK_IS_FULL = "Not enough disk space"  # an OSError of TFDS that names no folder begins so


def prepare_if_self_contained(builder: str, data_dir: str) -> None:
    """Prepares `builder` ("name/config") if it is missing and needs no files. Otherwise does nothing."""
    cls = catalog.builder_class(builder)
    if cls and catalog.is_self_contained(builder) and not catalog.is_prepared(builder, data_dir):
        _, _, config = builder.partition("/")
        made = cls(config=config, data_dir=str(catalog.root_dir(data_dir)))
        print(f"preparing {builder} in {made.data_path}", file=sys.stderr, flush=True)
        build_records(made)


def wait_if_self_contained(builder: str, data_dir: str) -> None:
    """Waits until another process has prepared `builder`, if `prepare_if_self_contained` can prepare it."""
    if catalog.is_self_contained(builder):
        wait_until_prepared(builder, data_dir)


def wait_until_prepared(builder: str, data_dir: str) -> None:
    """Waits until another process has prepared `builder`."""
    while not catalog.is_prepared(builder, data_dir):
        time.sleep(0.5)


def prepare_from_list(builder: str, list_path: str, data_dir: str) -> None:
    """Prepares `builder`, "list_of_files/NAME", from a list of files, unless it is already prepared from this list.

    It may have been prepared with other options, by the command, or from the same list at another place.

    Raises:
        ValueError: it was prepared from another list, or the list has errors.
        FileNotFoundError: there is no list.
        RuntimeError: another process is preparing it.
    """
    form, _, name = builder.partition("/")
    flags = [form, f"--name={name}", f"--source={list_path}", *([f"--data_dir={data_dir}"] if data_dir else [])]
    (made,) = builders(_parse(flags))
    if made.is_prepared():
        _check_list(made)
        return
    print(f"preparing {builder} from {list_path} in {made.data_path}", file=sys.stderr, flush=True)
    prepare(made)


def _check_list(builder: base.MediaBuilder) -> None:
    stored = files.read_json(builder.data_path / "metadata.json", {"origin": {}})["origin"].get(folder.LIST_SHA256)
    if stored != builder.origin()[folder.LIST_SHA256]:
        raise ValueError(
            f"{builder_name(builder)} was prepared from another list, or the list has changed since. Choose another "
            f"name, or delete {builder.data_path} first"
        )


def prepare(builder: tfds.core.DatasetBuilder, manual_dir: str = "", beam_pipeline_options: str = "") -> None:
    """Prepares a dataset from files, unless it is already prepared.

    The preparation of one of this project's datasets continues where it was interrupted.

    Args:
        builder: its builder.
        manual_dir: the folder of the publisher's files; "": TFDS's default, DATA_DIR/downloads/manual.
        beam_pipeline_options: comma-separated options of Apache Beam, without their dashes; "": only this machine.

    Raises:
        ValueError: a dataset of that name was prepared from another source, or the source has errors.
        FileNotFoundError: a part of the source is missing.
        RuntimeError: another process is preparing it, or a reader process died.
    """
    if builder.is_prepared():
        if isinstance(builder, base.MediaBuilder):
            _check_origin(builder)
            builder.discard_work()
        return
    manual = _manual(builder, manual_dir)
    build_records(builder, manual_dir=manual, beam_options=_beam_options(beam_pipeline_options))
    if not isinstance(builder, base.MediaBuilder):
        _add_words(builder, manual)


def _add_words(builder: tfds.core.DatasetBuilder, manual: epath.Path) -> None:
    """Puts words beside wnids, "n02084071 dog", if the source folder has a file of them, as for `imagenet21k`."""
    found_label = label_features.find(dict(builder.info.features)).get(label_features.ONE)
    names = found_label.names if found_label else []
    found = publisher.named((path.name for path in manual.iterdir()), class_names.WNID_FILES) if manual.is_dir() else []
    if found and names and all(re.fullmatch(r"n\d{8}", name) for name in names):
        words = class_names.read_class_names(manual / sorted(found)[0]).wnids
        named = tfds.features.ClassLabel(names=[words.get(name, name) for name in names])
        named.save_metadata(builder.data_path, "label")
        catalog.write_info_checksums(builder.data_path)


def sources(arguments: list[str]) -> Iterator[tuple[str, str, worker_pool.Reader, listing.Listing]]:
    """What the command with these arguments would read: name, modality, reader and listing of each dataset.

    Raises:
        ValueError: the dataset is not made from files, or the source has errors.
        FileNotFoundError: a part of the source is missing.
    """
    args = _parse(arguments)
    for builder in builders(args):
        if not isinstance(builder, base.MediaBuilder):
            raise ValueError(f"{builder_name(builder)} is not made from files by this project")
        manual = _manual(builder, vars(args).get("manual_dir", ""))
        yield builder_name(builder), builder.MODALITY, *builder.sources(manual)


def num_sources(arguments: list[str]) -> int:
    """How many datasets the command with these arguments would prepare: several, if a builder has several configs."""
    return len(list(builders(_parse(arguments))))


def _parse(arguments: list[str]) -> argparse.Namespace:
    return prepare_flags.make_parser(arguments[:1]).parse_args(arguments)


def build_records(builder: tfds.core.DatasetBuilder, **download_config) -> None:
    """Writes a builder's records and their offset indices. The dataset appears only when all of it is complete.

    Args:
        builder: the builder.
        **download_config: further arguments of `tfds.download.DownloadConfig`.

    Raises:
        FileNotFoundError: a part of the source is missing.
        OSError: the disk is full, or a file cannot be written. The message names it, or the folder of the dataset.
    """
    from data_pipelines.stream import records  # TensorFlow is slow to import and only needed from here
    from data_pipelines.stream.host_tf import tf

    if catalog.builder_class(builder.name):
        tfds.disable_progress_bar()  # this project's progress bar knows the total
        # TFDS's lines speak of a download of unknown size, and there is none.
        builder._log_download_bytes = builder._log_download_done = lambda: None
    try:
        builder.download_and_prepare(
            file_format="tfrecord",
            download_config=tfds.download.DownloadConfig(try_download_gcs=False, **download_config),
        )
    except OSError as error:
        if not builder.data_path.exists():
            _add_folder(error, builder.data_path)
            raise
        logging.info("In the meantime another process prepared %s.", builder.data_path)
    except RuntimeError as error:  # TFDS's for what TensorFlow says when it writes a shard
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        kept = "; the same command continues with what was read so far" if catalog.builder_class(builder.name) else ""
        raise OSError(f"{escaping.one_line(error)}. Make space{kept}") from error
    except tf.errors.NotFoundError as error:  # from TFDS's own builders, for a missing file
        raise FileNotFoundError(error.message) from error
    records.write_indices(builder.data_path)
    catalog.write_info_checksums(builder.data_path)


def _add_folder(error: OSError, folder: epath.Path) -> None:
    """Adds the folder to an error of the system that names no file, and to TFDS's own for a full disk."""
    if str(error).startswith(_TFDS_DISK_IS_FULL):
        error.errno = errno.ENOSPC
    if error.errno is not None and error.filename is None:
        error.strerror, error.filename = os.strerror(error.errno), os.fspath(folder)


def builders(args: argparse.Namespace) -> Iterator[tfds.core.DatasetBuilder]:
    """The builders that the flags name: of one config, of all configs, or of a folder."""
    name, _, config = args.builder.partition("/")
    cls = catalog.builder_class(name) or prepare_flags.tfds_class(name)
    assert cls is not None  # the flags accept no other name
    common: dict[str, Any] = {"data_dir": str(catalog.root_dir(args.data_dir))}
    configs: list[Any] = [config] if config else list(cls.builder_configs) or [None]
    if issubclass(cls, folder.FolderBuilder):
        configs, asked = [_folder_config(args, cls)], cls
        cls = cls.for_layout(configs[0].layout)
        if foreign := [option for option in asked.OPTIONS if option in vars(args) and option not in cls.OPTIONS]:
            raise ValueError(f"--{foreign[0]}: there is no such option for {cls.MODALITY}s")
    if issubclass(cls, base.MediaBuilder):
        common["options"] = {option: vars(args)[option] for option in cls.OPTIONS if option in vars(args)}
        common["workers"] = args.workers
    if issubclass(cls, publisher.PublisherBuilder):
        common["splits"] = args.splits
    return (cls(config=config, **common) for config in configs)


def _folder_config(args: argparse.Namespace, cls: type[folder.FolderBuilder]) -> folder.FolderConfig:
    layout = {field.name: vars(args)[field.name] for field in dataclasses.fields(cls.LAYOUT)}
    return folder.FolderConfig(name=args.name, source=args.source, layout=cls.LAYOUT(**layout))


def _beam_options(text: str):
    """Apache Beam's options; None without Beam."""
    if not text:
        return None
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ValueError("--beam_pipeline_options needs Apache Beam: pip install -e '.[beam]'") from error
    return PipelineOptions(flags=[f"--{option}" for option in text.split(",")])


def _manual(builder: tfds.core.DatasetBuilder, manual_dir: str) -> epath.Path:
    """The folder of the publisher's files."""
    manual = epath.Path(manual_dir).expanduser() if manual_dir else builder.data_dir_root / "downloads" / "manual"
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS and not manual.is_dir():
        raise FileNotFoundError(
            f"there is no folder {manual}; name another one with --manual_dir. It must hold "
            + escaping.one_line(builder.MANUAL_DOWNLOAD_INSTRUCTIONS)
        )
    return manual


def builder_name(builder: tfds.core.DatasetBuilder) -> str:
    """The name of the dataset: "name" or "name/config"."""
    config = builder.builder_config_name
    return f"{builder.name}/{config}" if config else builder.name


def _check_origin(builder: base.MediaBuilder) -> None:
    origin = {"skip": []} | files.read_json(builder.data_path / "metadata.json", {"origin": {}})["origin"]
    if "source" in origin and base.SOURCE_HASH not in origin:  # prepared by 0.2.0 or earlier, with the whole path
        origin |= base.describe_source(origin["source"])
    asked = builder.asked_origin()
    differing = [
        f"{key} {origin.get(key)!r}, not {asked[key]!r}"
        for key in asked
        if asked[key] != origin.get(key) and key not in ("source", base.SOURCE_HASH)
    ]
    if asked.get(base.SOURCE_HASH, origin.get(base.SOURCE_HASH)) != origin.get(base.SOURCE_HASH):
        before, now = origin.get("source"), asked["source"]
        differing.insert(0, f"source {before!r}, not {now!r}" + (" in another folder" if before == now else ""))
    if differing:
        other = "Choose another --name, or delete" if isinstance(builder, folder.FolderBuilder) else "Delete"
        raise ValueError(
            f"{builder_name(builder)} was prepared with {'; '.join(differing)}. {other} {builder.data_path} first"
        )
