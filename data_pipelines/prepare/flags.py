"""The flags of `python -m data_pipelines.prepare`: which a builder has, and what they may be."""

import argparse
import dataclasses
import inspect
import re

import tensorflow_datasets as tfds

from data_pipelines import catalog
from data_pipelines.prepare import base, folder, listing, publisher


def make_parser(asked: list[str]) -> argparse.ArgumentParser:
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
        if catalog.builder_class(name) is None and tfds_class(name):
            _add_flags(builders.add_parser(full_name), tfds_class(name))
    return parser


def tfds_class(name: str) -> type[tfds.core.DatasetBuilder] | None:
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
