"""Prepares a dataset: `python -m data_pipelines.prepare BUILDER ...`; README.md has examples.

BUILDER is one of this project's, or any other that TFDS has (its own command, `tfds build`, needs Apache Beam). Running
it again on a dataset that is prepared does nothing; on one whose preparation was broken off, it goes on.
"""

import argparse
import collections
import csv
import dataclasses
import inspect
import json
import re
import sys
import time
from collections.abc import Iterator

import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from data_pipelines import catalog
from data_pipelines.builders import base, chunks, folder, listing, publisher

SHOWN_REFUSED = 5


def prepare_if_self_contained(builder: str, data_dir: str) -> None:
    """Prepares `builder` ("name/config") if it is missing and needs no files; leaves any other as it is."""
    if catalog.is_self_contained(builder) and not catalog.is_prepared(builder, data_dir):
        _, _, config = builder.partition("/")
        build(catalog.builder_class(builder)(config=config, data_dir=str(catalog.root_dir(data_dir))))


def wait_if_self_contained(builder: str, data_dir: str) -> None:
    """Returns when another process has made `builder`, if it is one that `prepare_if_self_contained` makes."""
    while catalog.is_self_contained(builder) and not catalog.is_prepared(builder, data_dir):
        time.sleep(0.5)


def prepare(builder: tfds.core.DatasetBuilder, manual_dir: str = "", beam_pipeline_options: str = "") -> None:
    """Prepares a dataset that is made from files, unless it is; one of this project's goes on where it was broken off.

    Args:
      builder: its builder.
      manual_dir: where the publisher's files stand; "": TFDS's default, DATA_DIR/downloads/manual.
      beam_pipeline_options: comma-separated options of Apache Beam, without their dashes; "": this machine alone.

    Raises:
      ValueError: a dataset of that name was prepared from something else, or the source is not as it should be.
      FileNotFoundError: a part of the source is missing.
      RuntimeError: another process is at it, or one that reads died.
    """
    if builder.is_prepared():
        if isinstance(builder, base.MediaBuilder):
            _check_origin(builder)
            builder.discard_work()
        return
    build(builder, manual_dir=_manual(builder, manual_dir), beam_options=_beam_options(beam_pipeline_options))


def sources(arguments: list[str]) -> Iterator[tuple[str, str, chunks.Reader, listing.Listing]]:
    """What the command with these arguments would read: of each dataset its name, modality, reader and listing.

    Raises:
      ValueError: it is not made from files, or the source is not as it should be.
      FileNotFoundError: a part of the source is missing.
    """
    args = _parser(arguments[:1]).parse_args(arguments)
    for builder in _builders(args):
        if not isinstance(builder, base.MediaBuilder):
            raise ValueError(f"{_name(builder)} is not made from files by this project")
        manual = _manual(builder, vars(args).get("manual_dir", ""))
        yield _name(builder), builder.MODALITY, *builder.sources(manual)


def build(builder: tfds.core.DatasetBuilder, **download_config) -> None:
    """Writes a builder's records and their offset indices; all of the dataset appears at once, at the end.

    Args:
      builder: what to build.
      **download_config: more of `tfds.download.DownloadConfig`.

    Raises:
      FileNotFoundError: a part of the source is missing.
    """
    from data_pipelines import records  # TensorFlow: slow to import, and only needed from here on
    from data_pipelines.host_tf import tf

    if catalog.builder_class(builder.name):
        tfds.disable_progress_bar()  # ours knows how much there is to do
    try:
        builder.download_and_prepare(
            file_format="tfrecord",
            download_config=tfds.download.DownloadConfig(try_download_gcs=False, **download_config),
        )
    except OSError:
        if not builder.data_path.exists():
            raise
        logging.info("%s was prepared by another process meanwhile.", builder.data_path)
    except tf.errors.NotFoundError as error:  # of TFDS's own builders, that open what they do not find
        raise FileNotFoundError(error.message) from error
    records.write_indices(builder.data_path)


def main(arguments: list[str]) -> None:
    """The command: prepares what the arguments ask for and says what there is now."""
    args = _parser(arguments[:1]).parse_args(arguments)
    names = []
    try:
        for builder in _builders(args):
            if catalog.is_self_contained(builder.name):
                prepare_if_self_contained(_name(builder), args.data_dir)
            else:
                prepare(builder, vars(args).get("manual_dir", ""), vars(args).get("beam_pipeline_options", ""))
            names.append(_name(builder))
    except (ValueError, OSError, RuntimeError, AssertionError) as error:  # the last where TFDS misses files
        sys.exit(f"error: {error}")
    for name in names:
        _measure(name, args.data_dir)
        _print_summary(name, catalog.dataset_dir(name, args.data_dir))


def _builders(args: argparse.Namespace) -> Iterator[tfds.core.DatasetBuilder]:
    """The builders that are asked for: of one config, of all of them, or the one of a folder."""
    name, _, config = args.builder.partition("/")
    cls = catalog.builder_class(name) or _tfds_class(name)
    common = {"data_dir": str(catalog.root_dir(args.data_dir))}
    if issubclass(cls, base.MediaBuilder):
        common["options"] = {option: vars(args)[option] for option in cls.OPTIONS}
        common["workers"] = args.workers
    if issubclass(cls, publisher.PublisherBuilder):
        common["splits"] = args.splits
    if issubclass(cls, folder.FolderBuilder):
        configs = [_folder_config(args)]
    else:
        configs = [config] if config else list(cls.builder_configs) or [None]
    return (cls(config=config, **common) for config in configs)


def _measure(name: str, data_dir: str) -> None:
    """Measures a dataset for the doctor and the search for leaks, which at the start of a run would take too long."""
    from data_pipelines import facts, records

    for split in tfds.builder_from_directory(catalog.dataset_dir(name, data_dir)).info.splits:
        opened = records.open_split(name, split, data_dir)
        if feature := facts.pictures_feature(opened.features):
            facts.of_split(opened, feature)


def _parser(asked: list[str]) -> argparse.ArgumentParser:
    """The flags of this project's builders, and of TFDS's if it is `asked` for."""
    parser = argparse.ArgumentParser(prog="python -m data_pipelines.prepare", description=__doc__.splitlines()[0])
    builders = parser.add_subparsers(dest="builder", required=True, metavar="BUILDER")
    for name in catalog.builder_names():
        cls = catalog.builder_class(name)
        summary = inspect.getdoc(inspect.getmodule(cls)).splitlines()[0]
        for full_name in (name, *(f"{name}/{config}" for config in cls.builder_configs)):
            _add_flags(builders.add_parser(full_name, help=summary, description=summary), cls)
    for full_name in asked:
        name = full_name.partition("/")[0]
        if catalog.builder_class(name) is None and _tfds_class(name):
            _add_flags(builders.add_parser(full_name), _tfds_class(name))
    return parser


def _tfds_class(name: str) -> type[tfds.core.DatasetBuilder] | None:
    """TFDS's own builder of that name, or None."""
    try:
        return tfds.builder_cls(name)
    except (tfds.core.DatasetNotFoundError, ValueError):  # the latter for what is no name
        return None


def _add_flags(command: argparse.ArgumentParser, cls: type[tfds.core.DatasetBuilder]) -> None:
    command.add_argument("--data_dir", default="", help="where prepared datasets stand (TFDS's default)")
    if cls.MANUAL_DOWNLOAD_INSTRUCTIONS:
        command.add_argument(
            "--manual_dir", default="", help="the folder with the publisher's files (DATA_DIR/downloads/manual)"
        )
    if issubclass(cls, publisher.PublisherBuilder):
        command.add_argument(
            "--splits", type=_words, default=("train", "validation"), help="which to prepare (train,validation)"
        )
    if issubclass(cls, folder.FolderBuilder):
        _add_folder_flags(command)
    if issubclass(cls, base.MediaBuilder):
        _add_media_flags(command, cls)


def _add_media_flags(command: argparse.ArgumentParser, cls: type[base.MediaBuilder]) -> None:
    command.add_argument("--workers", type=int, default=0, help="processes that decode (0: one a core)")
    command.add_argument(
        "--beam_pipeline_options",
        default="",
        help="prepare on Apache Beam, with these options: runner=DataflowRunner,project=... (extra `beam`)",
    )
    for option, (default, help_text) in cls.OPTIONS.items():
        command.add_argument(f"--{option}", type=type(default), default=default, help=f"{help_text} ({default})")


def _add_folder_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--name", type=_dataset_name, required=True, help="what to call the dataset")
    command.add_argument("--source", required=True, help="the folder with the files")
    for field in dataclasses.fields(listing.Layout):
        several = isinstance(field.default, tuple)
        shown = ",".join(field.default) if several else repr(field.default)
        command.add_argument(
            f"--{field.name}",
            type=_words if several else type(field.default),
            default=field.default,
            help=f"{field.metadata['help']} ({shown})",
        )


def _dataset_name(text: str) -> str:
    if not re.fullmatch(r"[\w-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r}: only letters, digits, _ and -; it stands in paths and config keys")
    return text


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _folder_config(args: argparse.Namespace) -> folder.FolderConfig:
    given = vars(args)
    layout = {field.name: given[field.name] for field in dataclasses.fields(listing.Layout)}
    return folder.FolderConfig(name=args.name, source=args.source, layout=listing.Layout(**layout))


def _beam_options(text: str):
    """Apache Beam's options, or None: no Beam."""
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
            f"there is no folder {manual}; name another by --manual_dir. It must hold "
            + " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
        )
    return manual


def _name(builder: tfds.core.DatasetBuilder) -> str:
    config = builder.builder_config_name
    return f"{builder.name}/{config}" if config else builder.name


def _check_origin(builder: base.MediaBuilder) -> None:
    origin = json.loads((builder.data_path / "metadata.json").read_text())["origin"]
    asked = builder.origin()
    differing = [f"{key} {origin.get(key)!r}, not {asked[key]!r}" for key in asked if asked[key] != origin.get(key)]
    if differing:
        other = "Choose another --name, or delete" if isinstance(builder, folder.FolderBuilder) else "Delete"
        raise ValueError(
            f"{_name(builder)} was prepared with {'; '.join(differing)}. {other} {builder.data_path} first"
        )


def _print_summary(name: str, where: epath.Path) -> None:
    info = tfds.builder_from_directory(where).info
    counts = ", ".join(f"{split} {details.num_examples}" for split, details in info.splits.items())
    print(f"{name}: {counts}; {info.features['label'].num_classes} classes; in {where}")
    refused = _read_refused(where)
    missing = collections.Counter(row["split"] for row in refused if row["reason"] == base.MISSING)
    unusable = [row for row in refused if row["reason"] != base.MISSING]
    table = where / base.REFUSED_FILE
    if missing:
        counts = ", ".join(f"{split} {count}" for split, count in missing.items())
        print(f"  {missing.total()} listed files are missing ({counts}), and stand in {table}")
    if unusable:
        print(f"  {len(unusable)} files were refused, and stand with their reasons in {table}:")
    for row in unusable[:SHOWN_REFUSED]:
        print(f"    {row['split']} {row['path']}: {row['reason']}")


def _read_refused(where: epath.Path) -> list[dict[str, str]]:
    path = where / base.REFUSED_FILE
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


if __name__ == "__main__":
    main(sys.argv[1:])
