"""Compares every leaf of every checkpoint of a run with its fingerprint.

    python -m cover_jax.checkpoint verify --workdir=/tmp/cover_demo

It prints one line per checkpoint. Exit code 46: at least one checkpoint is damaged.
"""

import argparse
import sys

from etils import epath

from cover_jax import errors
from data_pipelines import command_line
from data_pipelines.command_line import UsageError


def _parser() -> command_line.Parser:
    parser = command_line.Parser("cover_jax.checkpoint", __doc__)
    parser.add_argument("task", choices=["verify"], help="what to do")
    parser.add_argument("old_workdir", nargs="?", default="", help=argparse.SUPPRESS)
    parser.add_shared("workdir", default="")
    parser.add_shared("json")
    return parser


def verify(workdir: str) -> dict[str, list[str]]:
    """Prints one line per checkpoint of a run. Returns folder -> problems of that checkpoint."""
    from cover_jax.checkpoint import layout, restore  # JAX and orbax load slowly: check the arguments first

    problems = {}
    for step in layout.saved_steps(workdir):
        folder = layout.checkpoints_folder(workdir) / str(step)
        problems[str(folder)] = restore.damage(folder)
        print(f"{folder}: {'; '.join(problems[str(folder)]) or _soundness(folder)}", flush=True)
    if not problems:
        raise FileNotFoundError(f"{layout.checkpoints_folder(workdir)}: no checkpoints")
    return problems


def _soundness(folder: epath.Path) -> str:
    from cover_jax.checkpoint import integrity

    meta, _ = integrity.read_meta(folder)
    if not integrity.is_sealed(meta):
        return "readable; saved by an earlier version, without fingerprints"
    return f"sound, all {len(meta['fingerprints'])} leaves"


@command_line.command()
def main(arguments: list[str]) -> None:
    """Runs the command."""
    args = _parser().parse_args(arguments)
    workdir = args.workdir or args.old_workdir
    if not workdir:
        raise UsageError("--workdir: must be given")
    problems = verify(workdir)
    command_line.write_json(args.json, problems)
    if any(problems.values()):
        sys.exit(errors.DAMAGED)


if __name__ == "__main__":
    main(sys.argv[1:])
