"""The flags of `python -m data_pipelines.prepare`: which flags each builder has, and their values."""

import argparse
import dataclasses
import inspect
import re

import tensorflow_datasets as tfds

from data_pipelines import catalog, command_line
from data_pipelines.prepare import base, folder, publisher


def make_parser(asked: list[str], doc: str = "") -> command_line.Parser:
    """The flags of this project's builders, and of a TFDS builder if `asked` names one. `doc` is the command's help."""
    parser = command_line.Parser("data_pipelines.prepare", doc)
    builders = parser.add_subparsers(dest="builder", required=True, metavar="BUILDER", parser_class=_BuilderParser)
    ours = {name: cls for name in catalog.builder_names() if (cls := catalog.builder_class(name))}
    for name, cls in ours.items():
        text = inspect.getdoc(inspect.getmodule(cls)) or name
        configs = [f"{name}/{config}" for config in (*cls.builder_configs, *getattr(cls, "RELEASES", ()))]
        _add_flags(builders.add_parser(name, help=_summary(text, configs), description=_doc(text, name, cls)), cls)
        for full_name in configs:
            _add_flags(builders.add_parser(full_name, description=_doc(text, full_name, cls)), cls)
    for full_name in asked:
        name = full_name.partition("/")[0]
        if name not in ours and (other := tfds_class(name)):
            _add_flags(builders.add_parser(full_name, description=_doc(full_name, full_name, other)), other)
    return parser


class _BuilderParser(command_line.Parser):
    """The flags of one builder."""

    def __init__(self, prog: str, description: str):
        super().__init__(prog.removeprefix("python -m "), description)


def _summary(text: str, configs: list[str]) -> str:
    return text.splitlines()[0] + (f" Or one of them: {', '.join(configs)}." if configs else "")


def _doc(text: str, full_name: str, cls: type[tfds.core.DatasetBuilder]) -> str:
    """The text of a builder's --help: `text` and an example."""
    needed = f" --name=mine --source={cls.EXAMPLE}" if issubclass(cls, folder.FolderBuilder) else ""
    if cls.MANUAL_DOWNLOAD_INSTRUCTIONS:
        needed = f" --manual_dir=/data/{full_name.replace('/', '_')}"
    return f"{text}\n\n    python -m data_pipelines.prepare {full_name}{needed} --data_dir=/data/prepared"


def tfds_class(name: str) -> type[tfds.core.DatasetBuilder] | None:
    """TFDS's own builder of that name, or None."""
    try:
        return tfds.builder_cls(name)
    except (tfds.core.DatasetNotFoundError, ValueError):  # ValueError for text that is not a name
        return None


def _add_flags(command: command_line.Parser, cls: type[tfds.core.DatasetBuilder]) -> None:
    command.add_shared("data_dir")
    if cls.MANUAL_DOWNLOAD_INSTRUCTIONS:
        command.add_argument(
            "--manual_dir", default="", metavar="DIR",
            help="the folder with the publisher's files (DATA_DIR/downloads/manual)",
        )  # fmt: skip
    if issubclass(cls, publisher.PublisherBuilder):
        command.add_argument(
            "--splits", type=_words, default=("train", "validation"), help="the splits to prepare (train,validation)"
        )
    if issubclass(cls, folder.FolderBuilder):
        _add_folder_flags(command, cls)
    if issubclass(cls, base.MediaBuilder):
        _add_media_flags(command, cls)


def _add_media_flags(command: command_line.Parser, cls: type[base.MediaBuilder]) -> None:
    command.add_argument("--workers", type=int, default=0, help="number of processes that decode (0: one per core)")
    command.add_argument(
        "--beam_pipeline_options",
        default="",
        help="prepare on Apache Beam, with these options: runner=DataflowRunner,project=... (extra `beam`)",
    )
    for option, (default, help_text) in cls.OPTIONS.items():
        command.add_argument(
            f"--{option}", type=type(default), default=argparse.SUPPRESS,
            help=f"{help_text} ({default})",
        )  # fmt: skip


def _add_folder_flags(command: command_line.Parser, cls: type[folder.FolderBuilder]) -> None:
    command.add_argument("--name", type=_dataset_name, required=True, help="name of the dataset")
    command.add_argument("--source", required=True, type=command_line.storage_path, help=cls.SOURCE_HELP)
    for field in dataclasses.fields(cls.LAYOUT):
        several = isinstance(field.default, tuple)
        shown = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else repr(field.default)
        command.add_argument(
            f"--{field.name}",
            type=_words if several else type(field.default),
            default=field.default,
            help=f"{field.metadata['help']} ({shown})",
        )


def _dataset_name(text: str) -> str:
    if not re.fullmatch(r"[\w-]+", text):
        raise argparse.ArgumentTypeError(
            f"{text!r}: only letters, digits, _ and -; it is part of paths and config keys"
        )
    return text


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))
