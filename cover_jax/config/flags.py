"""What the commands that take a --config have in common."""

import re

from absl import flags

from cover_jax import errors
from cover_jax.fault_tolerance import process


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with one line for a flag, a config or a key that does not exist.

    For `app.run(main, flags_parser=parse_flags)`, where there is a flag `config`.
    """
    try:
        rest = flags.FLAGS(argv)
        _ = flags.FLAGS.config.keys  # only now does a file that cannot be loaded say so
    except flags.Error as error:
        process.end_all_hosts(errors.CONFIG, _one_line(_by_the_config_file(str(error)) or error))
    except (KeyError, AttributeError, OSError) as error:
        reason = error.args[0] if isinstance(error, KeyError) else error
        process.end_all_hosts(errors.CONFIG, f"--config: {_one_line(reason)}")
    return rest


def _by_the_config_file(error: str) -> str:
    """What a config file itself says of its argument; "" if nothing."""
    if refused := re.search(r"^ValueError: (.*)", error, re.MULTILINE | re.DOTALL):
        return refused[1]
    if "TypeError: get_config() takes 0 positional arguments" in error:
        return f"{error.split()[1]} takes no argument after its name"
    return ""


def _one_line(reason) -> str:
    return " ".join(str(reason).split())
