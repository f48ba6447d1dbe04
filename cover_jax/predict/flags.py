"""The flags of `python -m cover_jax.predict`."""

import argparse
from collections.abc import Sequence

from cover_jax.predict import formats
from cover_jax.published import flags as source_flags
from data_pipelines import command_line
from data_pipelines.command_line import UsageError
from data_pipelines.prepare import base


def make_parser(doc: str) -> command_line.Parser:
    """The parser of all flags. `doc` is the command's docstring."""
    parser = command_line.Parser("cover_jax.predict", doc)
    parser.add_argument(
        "paths", nargs="+", type=command_line.storage_path, metavar="PATH",
        help="a video, an image or a folder, local or gs://",
    )  # fmt: skip
    source_flags.add_source(parser)
    parser.add_old("--checkpoint", "--workdir")
    parser.add_shared(
        "head", type=command_line.split_list, default=[], metavar="HEAD,...", help="only these heads (all)"
    )
    parser.add_shared("format", choices=tuple(formats.FORMATS), default="table", help="what is printed (table)")
    parser.add_shared("json")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="how many classes are shown (5)")
    parser.add_argument("--batch_size", type=int, default=8, metavar="N", help="files per batch (8)")
    parser.add_argument(
        "--explain", default="", metavar="VIDEO", help="video of where and when the model looks; for one file"
    )
    add_storage(parser)
    return parser


def add_storage(parser: command_line.Parser) -> None:
    """Adds the options of preparation with which files are read."""
    storage = parser.add_argument_group(
        "as the datasets were prepared",
        "needed for checkpoints up to version 0.2.0, if not by default",
    )
    for name in base.STORAGE:
        default, help_text = base.VideoFiles.OPTIONS[name]
        storage.add_argument(
            f"--{name}", type=type(default), default=argparse.SUPPRESS, metavar="N",
            help=f"{help_text} (as the checkpoint says)",
        )  # fmt: skip


def storage_options(args: argparse.Namespace) -> dict[str, int | float]:
    """The preparation options among the flags.

    Raises:
        UsageError: one is not positive.
    """
    return {name: positive(name, getattr(args, name)) for name in base.STORAGE if name in args}


def positive(name: str, value: int | float) -> int | float:
    """The value of a flag.

    Raises:
        UsageError: it is not greater than 0.
    """
    if value <= 0:
        raise UsageError(f"--{name}={value}: must be positive")
    return value


def parse(doc: str, arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, int | float]]:
    """The flags, and the preparation options among them.

    Raises:
        UsageError: a flag is invalid.
    """
    args = make_parser(doc).parse_args(arguments)
    for name in ("top", "batch_size"):
        positive(name, getattr(args, name))
    return args, storage_options(args)
