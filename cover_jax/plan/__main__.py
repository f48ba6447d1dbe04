"""Predicts memory, time and MFU of a config on TPU pods. Needs only the TPU compiler.

    python -m cover_jax.plan --config=configs/cover_l.py --topology=v5e:16x16
    python -m cover_jax.plan --config=configs/cover_l.py --topology=v5e:16x16 --topology=v5p:4x4x4 --clips_per_chip=1,2
    python -m cover_jax.plan --tables

cover_jax/plan/README.md explains the figures and their accuracy. A run's whole command can stand here: its other flags
are checked, and ignored.
"""

import argparse
import copy
import dataclasses
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from cover_jax.config import checks
from cover_jax.config import flags as cover_flags
from cover_jax.errors import ConfigError
from data_pipelines import command_line

if TYPE_CHECKING:
    from cover_jax.plan.step_time import StepTime
    from cover_jax.plan.table import Plan


def _parser() -> tuple[command_line.Parser, list[argparse.Action]]:
    """The parser, and the flags of a run that a plan ignores."""
    parser = command_line.Parser("cover_jax.plan", __doc__)
    cover_flags.add_config(parser)
    parser.add_argument(
        "--topology", action="append", required=True, help="TPU slice, such as v5e:16x16; may be given several times"
    )
    parser.add_argument(
        "--clips_per_chip", type=command_line.split_list, default=[], metavar="N,...",
        help="clips per device of the dataset with the longest clips, for example 1,2,4; other batches keep their "
        "ratio. A device is a chip, or half of a TPU7x chip (the config's batch sizes)",
    )  # fmt: skip
    parser.add_argument(
        "--mesh", type=command_line.split_list, default=[], metavar="DATAxFSDPxTENSOR,...",
        help="meshes, for example -1x8x1,-1x1x1 (the config's mesh)",
    )  # fmt: skip
    parser.add_argument(
        "--datasets", type=command_line.split_list, default=[], metavar="NAME,...",
        help="only the steps on these datasets of the config (all)",
    )  # fmt: skip
    parser.add_argument("--evaluation", action=command_line.Switch, help="compile the evaluation steps, too")
    parser.add_shared("json")
    _add_tables(parser)
    return parser, cover_flags.add_run(parser, needs_workdir=False)


def _add_tables(parser: command_line.Parser) -> None:
    parser.add_argument(
        "--tables", action=command_line.Switch,
        help="make the tables of cover_jax/plan/README.md anew, instead: hours; the same command continues",
    )  # fmt: skip
    parser.add_shared("out", metavar="FILE", default="", help="with --tables: their JSON; the page stands beside it")


def _with_datasets(config: ConfigDict, names: list[str]) -> ConfigDict:
    """The config with only these of its datasets; without names, all datasets.

    Raises:
        ConfigError: a dataset does not exist.
    """
    if unknown := [name for name in names if name not in config.datasets]:
        raise ConfigError(f"--datasets={','.join(unknown)}: the config has {', '.join(config.datasets)}")
    config = copy.deepcopy(config)
    with config.unlocked():
        for name in list(config.datasets) if names else []:
            if name not in names:
                del config.datasets[name]
    return config


def _configs(config: ConfigDict, topology: str, clips_per_chip: list[str], meshes: list[str]) -> list[ConfigDict]:
    """The config with each batch size and mesh of the flags.

    Raises:
        ConfigError: a flag is invalid.
    """
    from cover_jax.plan import compiler

    sized = [compiler.scale_batches(config, topology, _clips(text)) for text in clips_per_chip] or [config]
    found = []
    for one in sized:
        for mesh in meshes or [""]:
            one = copy.deepcopy(one)
            if mesh:
                one.mesh.data, one.mesh.fsdp, one.mesh.tensor = _axes(mesh)
            found.append(one)
    return found


def _clips(text: str) -> int:
    if re.fullmatch(r"[1-9]\d*", text) is None:
        raise ConfigError(f"--clips_per_chip={text}: must be numbers of clips, such as 1,2,4")
    return int(text)


def _axes(text: str) -> tuple[int, int, int]:
    if re.fullmatch(r"(-1|[1-9]\d*)(x(-1|[1-9]\d*)){2}", text) is None:
        raise ConfigError(f"--mesh={text}: must be DATAxFSDPxTENSOR, such as -1x8x1; one may be -1: all the rest")
    data, fsdp, tensor = map(int, text.split("x"))
    return data, fsdp, tensor


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags. What a plan ignores is said.

    Raises:
        UsageError, ConfigError: a flag cannot be used.
    """
    parser, of_run = _parser()
    args = cover_flags.parse(parser, arguments)
    if args.workdir and "://" not in args.workdir and pathlib.Path(args.workdir).is_file():  # a plan opens no bucket
        raise ConfigError(f"--workdir={args.workdir}: is a file; it must be a folder")
    names = {argument.partition("=")[0] for argument in arguments}
    if given := [action.option_strings[0] for action in of_run if names & set(action.option_strings)]:
        print(f"ignored, because nothing is run: {', '.join(given)}", file=sys.stderr)
    return args


def make_plans(args: argparse.Namespace, folder: pathlib.Path) -> Iterator["Plan"]:
    """One plan per row that the flags ask for.

    Args:
        args: from `_parse`.
        folder: as in `topologies.use_compiler_only`.
    """
    from cover_jax.plan import compiler

    checks.validate(args.config)
    config = _with_datasets(args.config, args.datasets)
    wanted = [
        (topology, one)
        for topology in args.topology
        for one in _configs(config, topology, args.clips_per_chip, args.mesh)
    ]
    for number, (topology, one) in enumerate(wanted, 1):
        print(f"compiling for {topology}, row {number} of {len(wanted)} ...", file=sys.stderr, flush=True)
        yield compiler.make_plan(one, topology, folder, args.evaluation)


def _make_tables(arguments: Sequence[str]) -> None:
    parser = command_line.Parser("cover_jax.plan", __doc__)
    _add_tables(parser)
    args = parser.parse_args(arguments)
    from cover_jax.plan import compiler, tables, topologies

    with tempfile.TemporaryDirectory() as folder:
        topologies.use_compiler_only(folder)

        def plan(row: str) -> "Plan":
            (made,) = make_plans(_parse(row.split()), pathlib.Path(folder))
            return made

        def kernel(topology: str, axis: str, num_frames: int, num_tokens: int, head_dim: int) -> list["StepTime"]:
            return compiler.kernel_times(topology, (axis, num_frames, num_tokens, head_dim), pathlib.Path(folder))

        tables.make(plan, kernel, pathlib.Path(args.out) if args.out else tables.FILE)


@command_line.command()
def main(arguments: list[str]) -> None:
    """Runs the command."""
    if any(argument.partition("=")[0] in ("--tables", "-tables") for argument in arguments):
        _make_tables(arguments)
        return
    args = _parse(arguments)
    if args.out:
        raise ConfigError(f"--out={args.out}: is for --tables; --json writes the figures of a plan")
    from cover_jax.plan import table, topologies  # JAX loads slowly: check the arguments first

    plans = []
    with tempfile.TemporaryDirectory() as folder:
        topologies.use_compiler_only(folder)
        for plan in make_plans(args, pathlib.Path(folder)):
            plans.append(plan)
            # After each plan, because the next one takes minutes and may fail.
            command_line.write_json(args.json, [dataclasses.asdict(plan) for plan in plans])
    print(table.report(args.config, plans))


if __name__ == "__main__":
    main(sys.argv[1:])
