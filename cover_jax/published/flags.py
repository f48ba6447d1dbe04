"""The flags of commands that take a trained model: a run, or a published model."""

import argparse
from typing import Any

from data_pipelines import command_line

VIEWS = ("sample_fps", "eval_clips", "eval_crops")  # keys of a dataset


def add_source(parser: command_line.Parser) -> None:
    """Adds --workdir and --step, and what may be given in place of what the model says of itself."""
    parser.add_shared(
        "workdir", type=str, required=True, metavar="MODEL",
        help="folder of a run, local or gs://; or a published model: a folder or file, or hf://ORG/REPO",
    )  # fmt: skip
    parser.add_shared("step")
    group = parser.add_argument_group("in place of what the model says")
    group.add_argument(
        "--sample_fps", type=float, default=argparse.SUPPRESS, metavar="X",
        help="frames per second that are seen; 0: frames from equal parts of the whole clip",
    )  # fmt: skip
    group.add_argument("--eval_clips", type=int, default=argparse.SUPPRESS, metavar="N", help="views over time")
    group.add_argument(
        "--eval_crops", type=int, default=argparse.SUPPRESS, choices=(1, 3), help="views along the longer side"
    )
    group.add_argument(
        "--class_names", default="", metavar="FILE", help="names of a published model's classes, one per line"
    )


def source_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `load.load` that the flags give, beside the source and the step."""
    views = {name: getattr(args, name) for name in VIEWS if name in args}
    return {"class_names": args.class_names, **views}
