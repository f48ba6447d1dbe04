"""The command line that all commands share: one form of --help, the same flags, errors of one line, exit codes.

A command is a module `PACKAGE/__main__.py`. Its docstring is its help: a line that says what it does, examples in a
paragraph of their own, and more. Its `main(arguments)` is wrapped by `command`.
"""

import argparse
import ast
import contextlib
import difflib
import functools
import gc
import json
import os
import pathlib
import re
import select
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from absl import logging
from etils import epath

from data_pipelines import environment, escaping

# Exit codes of every command. Those of training alone: cover_jax/errors.py.
DONE = 0
FAILED = 1  # an error that no flag, config or path can put right
CONFIG = 43  # a config, a flag or a path that cannot work: change it
INTERRUPTED = 130  # Ctrl-C, as shells have it: 128 + SIGINT
NO_READER = 141  # what reads the output has ended, as in `| head`; as shells have it: 128 + SIGPIPE

# Imports and compilation make millions of objects that stay. With Python's own threshold, 700, looking through them for
# garbage takes a tenth of the CPU time of a short run (tests/helpers/tiny_config.py: 12.5 s, 11.3 s with this one).
GARBAGE_THRESHOLD = 10_000


def storage_path(text: str) -> str:
    """The type of a flag for a file or folder: local or gs://. Other addresses would reach a file system that fails."""
    if re.match(r"(?!gs://)[A-Za-z][\w+.-]*://", text):
        hub = "; published weights go to config.model.init_from, predict and export" if text.startswith("hf://") else ""
        raise argparse.ArgumentTypeError(f"{text}: must be a local path or gs://...{hub}")
    return text


# The flags that several commands have, with the same meaning in all of them.
SHARED_FLAGS: dict[str, dict[str, Any]] = {
    "workdir": {"type": storage_path, "metavar": "DIR", "help": "folder of a run, local or gs://"},
    "step": {"metavar": "STEP", "help": "checkpoint to use: newest, best, or its step (newest)", "default": "newest"},
    "data_dir": {
        "type": storage_path, "metavar": "DIR", "help": "folder of the prepared datasets (TFDS's default)",
        "default": "",
    },
    "json": {
        "type": storage_path, "metavar": "FILE", "help": "also write what is printed to this file, as JSON",
        "default": "",
    },
    "head": {"metavar": "HEAD"},
    "out": {"type": storage_path, "metavar": "PATH"},
    "format": {},
}  # fmt: skip
_USER_ERRORS = (
    argparse.ArgumentTypeError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError,
    PermissionError,
)  # fmt: skip


# What argparse says, in the form of this project's other messages.
_REWORDED = {
    r"^argument ([^:]*): invalid choice: '(.*)' \(choose from (.*)\)": r"\1=\2: must be one of \3",
    r"^argument ([^:]*): invalid int value: '(.*)'": r"\1=\2: must be a whole number",
    r"^argument ([^:]*): invalid float value: '(.*)'": r"\1=\2: must be a number",
    r"^argument ([^:]*): (\w+://)": r"\1=\2",
    r"^argument ([^:]*): ": r"\1: ",
    r"^the following arguments are required: (.*)": r"\1: must be given",
}


class UsageError(ValueError):
    """The arguments of a command cannot be used. The message names the flag, its value and what would be right."""

    exit_code = CONFIG


class Ended(SystemExit):
    """The end of a command by an error that is printed already; its text is that message."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


class Switch(argparse.Action):
    """A flag without a value: `--x`, and `--nox` for its opposite, which the help leaves out."""

    def __init__(self, option_strings: Sequence[str], dest: str, default: bool = False, help: str = ""):
        self.off = [f"--no{option.removeprefix('--')}" for option in option_strings]
        super().__init__([*option_strings, *self.off], dest, nargs=0, default=default, help=help)

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        """As argparse has it."""
        setattr(namespace, self.dest, option_string not in self.off)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a docstring, shows a switch by its first name and other values by their type."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32, width=min(shutil.get_terminal_size().columns - 2, 118))

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return "N" if action.type is int else "X" if action.type is float else "TEXT"

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return action.option_strings[0] if isinstance(action, Switch) else super()._format_action_invocation(action)


class Parser(argparse.ArgumentParser):
    """The arguments of one command. What is wrong with them raises a UsageError.

    Args:
        module: what stands after `python -m`.
        doc: the module's docstring, see the top of this file.
    """

    def __init__(self, module: str, doc: str):
        paragraphs = doc.strip().split("\n\n")
        examples = [part for part in paragraphs if part.lstrip().startswith("python -m ")]
        text = "\n\n".join(part for part in paragraphs if part not in examples)
        super().__init__(
            prog=f"python -m {module}", description=text, formatter_class=_HelpFormatter, allow_abbrev=False,
            epilog="\n".join(["examples:", *examples]) if examples else None,
        )  # fmt: skip

    def add_shared(self, name: str, **details) -> argparse.Action:
        """Adds one of SHARED_FLAGS; `details` are `add_argument`'s, and add to what the flag has everywhere."""
        return self.add_argument(f"--{name}", **SHARED_FLAGS[name] | details)

    def add_old(self, old: str, new: str) -> None:
        """`old` is the former name of the flag `new`; it goes on working, and the help leaves it out."""
        self._option_string_actions[old] = self._option_string_actions[new]

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse has it, but what is wrong raises a UsageError."""
        namespace, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise UsageError(self.describe_unknown(unknown[0]))
        return namespace

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse has it, for arguments in the forms that absl has, too."""
        self._given = [self._written_out(arg) for arg in (sys.argv[1:] if args is None else args)]
        return super().parse_known_args(self._given, namespace)

    def describe_unknown(self, argument: str) -> str:
        """What to answer to an argument that this command does not have."""
        if not argument.startswith("-"):
            return f"{argument!r}: this command takes no such argument"
        flag = argument.partition("=")[0]
        nearest = self._nearest(flag)
        return f"{flag}: unknown flag" + (f"; did you mean {nearest}?" if nearest else f" (see {self.prog} --help)")

    def error(self, message: str) -> NoReturn:
        """Raises what argparse would print, as a UsageError."""
        if message.startswith("the following arguments are required"):
            self._refuse_misspelt()
        for form, better in _REWORDED.items():
            message = re.sub(form, better, message)
        raise UsageError(f"{message} (see {self.prog} --help)")

    def _refuse_misspelt(self) -> None:
        """A flag that is missing may be there, misspelt."""
        for flag in (argument.partition("=")[0] for argument in self._given if argument.startswith("--")):
            if flag not in self._option_string_actions and "." not in flag and self._nearest(flag):
                raise UsageError(self.describe_unknown(flag))

    def _nearest(self, flag: str) -> str:
        return next(iter(difflib.get_close_matches(flag, self._option_string_actions, n=1)), "")

    def _written_out(self, argument: str) -> str:
        """`-flag` as `--flag` and `--switch=false` as `--noswitch`: absl, which parsed flags before, had them."""
        argument = re.sub(r"^-(?=[A-Za-z_]\w)", "--", argument)
        flag, given, value = argument.partition("=")
        if given and isinstance(self._option_string_actions.get(flag), Switch):
            if value.lower() in ("true", "t", "yes", "y", "1"):
                return flag
            if value.lower() in ("false", "f", "no", "n", "0"):
                return f"--no{flag.removeprefix('--')}"
        return argument


def command(*user_errors: type[Exception]) -> Callable:
    """Makes `main(arguments)` of a command end as all commands do, always by SystemExit where it does not return.

    An error that the user can put right is one line on stderr and exit code 43, or the error's own `exit_code`. Another
    OSError is one line and exit code 1. Any other error keeps its traceback. Where nothing reads the output any longer,
    the command ends without a word.

    Args:
        user_errors: what else than a UsageError and a path that cannot be used the user can put right.
    """

    def decorate(main: Callable[[Sequence[str]], None]) -> Callable[[Sequence[str]], None]:
        @functools.wraps(main)
        def wrapped(arguments: Sequence[str]) -> None:
            logging.set_verbosity(logging.WARNING)  # what libraries note on their way would bury the command's lines
            with (
                environment.tensorflow_defaults(), _quiet_without_reader(), _errors_in_one_line(user_errors),
                _rare_garbage_collection(),
            ):  # fmt: skip
                main(arguments)

        return wrapped

    return decorate


@contextlib.contextmanager
def _rare_garbage_collection() -> Iterator[None]:
    """Inside, Python looks for garbage once per GARBAGE_THRESHOLD new objects, or as its caller set it."""
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], GARBAGE_THRESHOLD) if before[0] else 0, *before[1:])  # 0: never
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextlib.contextmanager
def _errors_in_one_line(user_errors: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        _end("interrupted", INTERRUPTED)
    except BrokenPipeError:
        raise
    except Exception as error:
        code = exit_code(error, user_errors)
        if code is None:
            raise
        _end(str(error) if hasattr(error, "exit_code") else one_line(error), code, error)


def exit_code(error: Exception, user_errors: tuple[type[Exception], ...] = ()) -> int | None:
    """The exit code of a command that an error ends; None: the error is not one that its user can put right."""
    if hasattr(error, "exit_code"):
        return error.exit_code
    if isinstance(error, (*_USER_ERRORS, *user_errors)):
        return CONFIG
    return FAILED if isinstance(error, OSError) else None


def one_line(error: Exception) -> str:
    """What an error says, on one line; the file first."""
    text = str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{os.fsdecode(error.filename)}: {error.strerror}"
    return escaping.one_line(text) or type(error).__name__


def _end(message: str, code: int, cause: Exception | None = None) -> NoReturn:
    line = f"error: {escaping.escape_text(message)}"
    print(line, file=sys.stderr, flush=True)
    raise Ended(line, code) from cause


@contextlib.contextmanager
def _quiet_without_reader() -> Iterator[None]:
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        without = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
        if not without:  # it was another pipe or connection
            raise
        for stream in without:  # the interpreter flushes both at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise SystemExit(NO_READER) from None


def _has_no_reader(stream) -> bool:
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def write_json(path: str, value) -> None:
    """What --json=FILE asks for; nothing without it.

    Args:
        path: local or gs://, or "".
        value: what JSON can hold.
    """
    if path:
        epath.Path(path).write_text(json.dumps(value, indent=2) + "\n")


def split_list(text: str) -> list[str]:
    """The type of a flag that takes several values, separated by commas."""
    return text.split(",") if text else []


def list_commands(package: pathlib.Path) -> dict[str, str]:
    """Commands of a package, by what stands after `python -m` -> the first line of their docstrings.

    Nothing is imported: it is there at once.
    """
    files = [*package.glob("main.py"), *sorted(package.glob("*/__main__.py"))]
    names = [f"{package.name}.{path.stem if path.stem == 'main' else path.parent.name}" for path in files]
    return {name: _summary(path) for name, path in zip(names, files, strict=True)}


def _summary(path: pathlib.Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def print_commands(package: pathlib.Path, doc: str, arguments: Sequence[str]) -> None:
    """What `python -m PACKAGE` does: prints its commands, each with a line. `doc` is its docstring."""
    Parser(package.name, doc).parse_args(arguments)
    commands = list_commands(package)
    width = max(map(len, commands))
    for name, summary in commands.items():
        print(f"python -m {name:{width}}  {summary}")
    print(f"\npython -m {next(iter(commands))} --help says more of one.")
