"""Prepares a dataset: `python -m data_pipelines.prepare BUILDER ...`; README.md has examples.

Running it again on a dataset that is prepared does nothing. A preparation that is broken off leaves no dataset.
"""

import argparse
import csv
import dataclasses
import inspect
import json
import sys

import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from data_pipelines import catalog
from data_pipelines.builders import folder, listing

SHOWN_REFUSED = 5


def prepare_if_self_contained(builder: str, data_dir: str) -> None:
    """Prepares `builder` ("name/config") if it is missing and needs no files; leaves any other as it is."""
    if catalog.is_self_contained(builder) and not catalog.is_prepared(builder, data_dir):
        _, _, config = builder.partition("/")
        build(catalog.builder_class(builder)(config=config, data_dir=str(catalog.root_dir(data_dir))))


def prepare_folder(builder: str, config: folder.FolderConfig, data_dir: str) -> None:
    """Prepares a folder of media as the dataset `builder`/`config.name`, unless it is.

    Raises:
      ValueError: a dataset of that name was prepared from something else.
    """
    name = f"{builder}/{config.name}"
    if catalog.is_prepared(name, data_dir):
        _check_origin(name, config.origin(), catalog.dataset_dir(name, data_dir))
    else:
        build(catalog.builder_class(builder)(config=config, data_dir=str(catalog.root_dir(data_dir))))


def build(builder: tfds.core.DatasetBuilder) -> None:
    """Writes a builder's records and their offset indices; all of the dataset appears at once, at the end."""
    from data_pipelines import records  # TensorFlow: slow to import, and only needed from here on

    tfds.disable_progress_bar()  # ours knows how much there is to do
    try:
        builder.download_and_prepare(
            file_format="tfrecord", download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    except OSError:
        if not builder.data_path.exists():
            raise
        logging.info("%s was prepared by another process meanwhile.", builder.data_path)
    records.write_indices(builder.data_path)


def main(arguments: list[str]) -> None:
    """The command: prepares what the arguments ask for and says what there is now."""
    args = _parser().parse_args(arguments)
    try:
        names = _prepare_asked(args)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    for name in names:
        _print_summary(name, catalog.dataset_dir(name, args.data_dir))


def _prepare_asked(args: argparse.Namespace) -> list[str]:
    """Prepares one builder: all of its datasets, or the one that is made from the folder. Returns their names."""
    cls = catalog.builder_class(args.builder)
    if not cls.SELF_CONTAINED:
        prepare_folder(args.builder, _folder_config(args, cls), args.data_dir)
        return [f"{args.builder}/{args.name}"]
    names = [f"{args.builder}/{config}" for config in cls.builder_configs]
    for name in names:
        prepare_if_self_contained(name, args.data_dir)
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_pipelines.prepare", description=__doc__.splitlines()[0])
    builders = parser.add_subparsers(dest="builder", required=True)
    for name in catalog.builder_names():
        cls = catalog.builder_class(name)
        summary = inspect.getdoc(inspect.getmodule(cls)).splitlines()[0]
        command = builders.add_parser(name, help=summary, description=summary)
        command.add_argument("--data_dir", default="", help="where prepared datasets stand (TFDS's default)")
        if not cls.SELF_CONTAINED:
            _add_folder_flags(command, cls)
    return parser


def _add_folder_flags(command: argparse.ArgumentParser, cls: type[folder.FolderBuilder]) -> None:
    command.add_argument("--name", required=True, help="what to call the dataset")
    command.add_argument("--source", required=True, help="the folder with the files")
    command.add_argument("--workers", type=int, default=0, help="processes that decode (0: one a core)")
    for field in dataclasses.fields(listing.Layout):
        several = isinstance(field.default, tuple)
        parse = (lambda text: tuple(text.split(","))) if several else str
        shown = ",".join(field.default) if several else repr(field.default)
        command.add_argument(
            f"--{field.name}", type=parse, default=field.default, help=f"{field.metadata['help']} ({shown})"
        )
    for option, (default, help_text) in cls.OPTIONS.items():
        command.add_argument(f"--{option}", type=type(default), default=default, help=f"{help_text} ({default})")


def _folder_config(args: argparse.Namespace, cls: type[folder.FolderBuilder]) -> folder.FolderConfig:
    given = vars(args)
    return folder.FolderConfig(
        name=args.name,
        source=args.source,
        layout=listing.Layout(**{field.name: given[field.name] for field in dataclasses.fields(listing.Layout)}),
        options={option: given[option] for option in cls.OPTIONS},
        workers=args.workers,
    )


def _check_origin(name: str, asked: dict, where: epath.Path) -> None:
    origin = json.loads((where / "metadata.json").read_text())["origin"]
    differing = [f"{key} {origin.get(key)!r}, not {asked[key]!r}" for key in asked if asked[key] != origin.get(key)]
    if differing:
        raise ValueError(
            f"{name} was prepared with {'; '.join(differing)}. Choose another --name, or delete {where} first"
        )


def _print_summary(name: str, where: epath.Path) -> None:
    info = tfds.builder_from_directory(where).info
    counts = ", ".join(f"{split} {details.num_examples}" for split, details in info.splits.items())
    print(f"{name}: {counts}; {info.features['label'].num_classes} classes; in {where}")
    refused = _read_refused(where)
    if refused:
        print(f"  {len(refused)} files were refused, and stand with their reasons in {where / folder.REFUSED_FILE}:")
    for split, path, reason in refused[:SHOWN_REFUSED]:
        print(f"    {split} {path}: {reason}")


def _read_refused(where: epath.Path) -> list[list[str]]:
    path = where / folder.REFUSED_FILE
    return list(csv.reader(path.read_text().splitlines()))[1:] if path.exists() else []


if __name__ == "__main__":
    main(sys.argv[1:])
