"""Reads the config of a config file, without what only training needs. Its overrides: cover_jax/config/flags.py."""

import importlib.util
import pathlib
import re

from absl import flags
from ml_collections import ConfigDict, config_flags

from data_pipelines import escaping
from data_pipelines.command_line import UsageError

_MOVED = re.compile(r"configs/ablations/(\w+)\.py")  # one file per part, before version 0.3


def load(file: str) -> ConfigDict:
    """The config of "FILE" or "FILE:ARGUMENT", locked: it takes no other keys.

    A file of configs/ that is not in the current folder is taken from the installed package `configs`.

    Raises:
        UsageError: there is no such file, or it refuses its argument.
    """
    file = _MOVED.sub(r"configs/ablations.py:\1", file)
    name, colon, argument = file.partition(":")
    path = _find(name)
    if path is None:
        raise UsageError(f"--config={file}: no such file")
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=[])
    try:
        values(["", f"--config={path}{colon}{argument}"])
    except flags.Error as error:
        raise UsageError(f"--config={_reason(file, str(error))}") from error
    return values.config


def _find(name: str) -> pathlib.Path | None:
    """The file of that name, here or, if it is in configs/, in the package of that name."""
    first, *rest = pathlib.Path(name).parts or ("",)
    package = importlib.util.find_spec("configs") if first == "configs" else None
    folders = (package.submodule_search_locations or []) if package else []
    paths = [pathlib.Path(name), *(pathlib.Path(folder, *rest) for folder in folders)]
    return next((path for path in paths if path.is_file()), None)


def _reason(file: str, error: str) -> str:
    """What a config file itself says of its argument, or of itself."""
    if refused := re.search(r"^ValueError: (.*)", error, re.MULTILINE | re.DOTALL):
        said = escaping.one_line(refused[1])
        return said if said.startswith(file.partition(":")[0]) else f"{file}: {said}"
    if re.search(r"^TypeError: \S+\(\) takes \d positional argument", error, re.MULTILINE):
        return f"{file}: takes no argument after its name"
    return f"{file}: {error.rstrip().splitlines()[-1]}"
