"""Predicts memory, time and MFU of a config on TPU pods. Needs only the TPU compiler.

    python -m cover_jax.plan --config=configs/cover_l.py --topology=v5e:16x16
    python -m cover_jax.plan --config=configs/cover_l.py --topology=v5e:16x16 --topology=v5p:4x4x4 --clips_per_chip=1,2

cover_jax/plan/README.md explains the figures and their accuracy.
"""

import argparse
import copy
import dataclasses
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from cover_jax.config import checks
from cover_jax.config import flags as cover_flags
from cover_jax.errors import ConfigError
from data_pipelines import command_line

if TYPE_CHECKING:
    from cover_jax.plan.table import Plan


def _parser() -> command_line.Parser:
    parser = command_line.Parser("cover_jax.plan", __doc__)
    cover_flags.add_config(parser)
    parser.add_argument(
        "--topology", action="append", required=True, help="TPU slice, such as v5e:16x16; may be given several times"
    )
    parser.add_argument(
        "--clips_per_chip", type=command_line.split_list, default=[], metavar="N,...",
        help="clips per chip of the dataset with the longest clips, for example 1,2,4; other batches keep their ratio "
        "(the config's batch sizes)",
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
    return parser


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


def _configs(args: argparse.Namespace, config: ConfigDict, topology: str) -> list[ConfigDict]:
    """The config with each batch size and mesh of the flags.

    Raises:
        ConfigError: a flag is invalid.
    """
    from cover_jax.plan import compiler

    sized = [compiler.scale_batches(config, topology, _clips(text)) for text in args.clips_per_chip] or [config]
    found = []
    for one in sized:
        for mesh in args.mesh or [None]:
            one = copy.deepcopy(one)
            if mesh is not None:
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


def _make_plans(args: argparse.Namespace, folder: pathlib.Path) -> Iterator["Plan"]:
    """One plan per row that the flags ask for."""
    from cover_jax.plan import compiler

    config = _with_datasets(args.config, args.datasets)
    wanted = [(topology, one) for topology in args.topology for one in _configs(args, config, topology)]
    for number, (topology, one) in enumerate(wanted, 1):
        print(f"compiling for {topology}, row {number} of {len(wanted)} ...", file=sys.stderr, flush=True)
        yield compiler.make_plan(one, topology, folder, args.evaluation)


@command_line.command()
def main(arguments: list[str]) -> None:
    """Runs the command."""
    args = cover_flags.parse(_parser(), arguments)
    from cover_jax.plan import table, topologies  # JAX loads slowly: check the arguments first

    plans = []
    with tempfile.TemporaryDirectory() as folder:
        topologies.use_compiler_only(folder)
        checks.validate(args.config)
        for plan in _make_plans(args, pathlib.Path(folder)):
            plans.append(plan)
            # After each plan, because the next one takes minutes and may fail.
            command_line.write_json(args.json, [dataclasses.asdict(plan) for plan in plans])
    print(table.report(args.config, plans))


if __name__ == "__main__":
    main(sys.argv[1:])
