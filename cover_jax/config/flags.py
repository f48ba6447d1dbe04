"""--config=FILE[:ARGUMENT] and --config.KEY=VALUE, for the commands that take a config."""

import argparse
import re
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import config_path

from cover_jax.config import checks
from data_pipelines import command_line
from data_pipelines.command_line import UsageError
from data_pipelines.config_file import load

_OVERRIDE = re.compile(r"--(?:no)?config\.([^=]+)(=.*)?", re.DOTALL)


def add_config(parser: command_line.Parser, folder: str = "configs") -> None:
    """Adds --config to a command whose config files stand in `folder`."""
    parser.add_argument(
        "--config", required=True, metavar="FILE[:ARGUMENT]",
        help=f"a file of {folder}/, with an argument for it; --config.KEY=VALUE changes one of its keys",
    )  # fmt: skip


def add_run(parser: command_line.Parser, needs_workdir: bool) -> list[argparse.Action]:
    """Adds the flags of a run: where it is kept, what it does, on which hosts. Returns them."""
    hosts = parser.add_argument_group("several hosts")
    return [
        parser.add_shared(
            "workdir", required=needs_workdir, help="folder for checkpoints, curves and logs, local or gs://"
        ),
        parser.add_shared("data_dir", help="folder of the prepared datasets, in place of config.data_dir"),
        parser.add_argument(
            "--mode", choices=("train", "evaluate", "rehearse"), default="train",
            help="train: start, or continue from the newest checkpoint; evaluate: only evaluate that checkpoint; "
            "rehearse: find out what would stop the run, and how long it will take (train)",
        ),
        hosts.add_argument(
            "--distributed", action=command_line.Switch, help="JAX finds the hosts automatically (TPU, SLURM)"
        ),
        hosts.add_argument(
            "--coordinator", metavar="HOST:PORT", help="address of process 0, without --distributed"
        ),
        hosts.add_argument(
            "--num_processes", type=int, default=1, metavar="N", help="number of processes, with --coordinator (1)"
        ),
        hosts.add_argument(
            "--process_id", type=int, default=0, metavar="I",
            help="index of this process, from 0, with --coordinator (0)",
        ),
    ]  # fmt: skip


def parse(parser: command_line.Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """The flags of a command, with the config itself, changed as they say, in `config`. It is not validated.

    Raises:
        UsageError: a flag, a file or a key that does not exist, or a value of another type than its key's.
    """
    arguments = flags.FLAGS.read_flags_from_files(arguments)
    args: argparse.Namespace
    args, rest = parser.parse_known_args(arguments)
    args.config = load(args.config)
    rest = override(args.config, rest)
    rest = flags.FLAGS(["", *rest], known_only=True)[1:]  # absl's own, such as --verbosity
    if rest:
        raise UsageError(parser.describe_unknown(rest[0]))
    return args


def override(config: ConfigDict, arguments: Sequence[str]) -> list[str]:
    """Changes the config as the flags --config.KEY=VALUE say; returns the arguments that are no such flags.

    Raises:
        UsageError: the config has no such key, or the value is of another type.
    """
    for argument in arguments:
        if given := _OVERRIDE.fullmatch(argument):
            _check_key(config, given[1])
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=list(arguments))
        rest: list[str] = values(["", *arguments], known_only=True)[1:]
        return rest
    except (flags.Error, TypeError, ValueError) as error:
        raise UsageError(_wrong_value(config, error)) from error


def _check_key(config: ConfigDict, key: str) -> None:
    try:
        config_path.get_type(key, config)
    except (KeyError, AttributeError, IndexError, TypeError, ValueError) as error:
        right = checks.did_you_mean(key, [known for known, _ in checks.flatten(config)], "--config.")
        raise UsageError(f"--config.{key}: unknown key{right}") from error


def _wrong_value(config: ConfigDict, error: Exception) -> str:
    """What is right, of a key whose value could not be read; else the error itself."""
    message = command_line.one_line(error)
    if found := re.match(r"flag --config\.([^=]+)=(.*?): ", message):
        key, value = found.groups()
        default = config_path.get_value(key, config)
        return f"--config.{key}={value}: must be {checks.like(default, config_path.get_type(key, config))}"
    return f"--config: {message}"
