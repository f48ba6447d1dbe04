"""What a rehearsal finds: problems, warnings and measured figures, on all hosts together."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from cover_jax import errors
from cover_jax.parallel import hosts
from data_pipelines import command_line

STAGE = "stage/"  # how the keys of `Findings.stage` begin


class RehearsalError(RuntimeError):
    """Something would stop or starve the run. The message has one line per problem."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that would stop or starve the run.

    Attributes:
        text: one line: what was found, and the config key or the command that mends it.
        exit_code: the run would end with it (cover_jax/fault_tolerance/README.md).
    """

    text: str
    exit_code: int


class Attempt:
    """What `Findings.collect` yields. `failed`: its block has raised, and the problem is collected."""

    failed = False


class Findings:
    """Collects instead of raising, so that one rehearsal finds all that is wrong.

    Attributes:
        problems: of all hosts, once `agree` has been called.
        warnings: what does not stop the run, but should be known.
        facts: for the table and the JSON; the same on all hosts.
        measured: figures of this host, flat; `worst` has those of all hosts. A rate ends with `_per_s`; of all other
            figures, such as times and memory, more is worse. `stage/NAME_s` is how long a stage took (`stage`).
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self.facts: dict[str, Any] = {}
        self.measured: dict[str, float] = {}
        self._new: list[Problem] = []

    def add(self, text: str, exit_code: int = errors.CONFIG) -> None:
        """Adds a problem of this host."""
        self._new += [Problem(line, exit_code) for line in text.splitlines() if line.strip()]

    def warn(self, text: str) -> None:
        """Adds a warning."""
        self.warnings.append(text)

    @contextlib.contextmanager
    def collect(self, what: str = "", *, together: bool = False) -> Iterator[Attempt]:
        """Inside, an exception is collected as a problem of this host.

        Args:
            what: the beginning of the message.
            together: the block needs all hosts. With several hosts, an error in it ends them all, because the others
                may wait for this one.
        """
        attempt = Attempt()
        try:
            yield attempt
        except Exception as error:
            if together and jax.process_count() > 1:
                raise
            attempt.failed = True
            code = command_line.exit_code(error) or errors.FAILED
            text = str(error) if hasattr(error, "exit_code") else command_line.one_line(error)
            if code == errors.FAILED and not isinstance(error, OSError):
                text = f"{type(error).__name__}: {text}"
            self.add("\n".join(what + line for line in _joined(text)), code)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Callable[[float], bool]]:
        """Measures how long its block takes. Yields a function: whether less than so many seconds have passed.

        The clock of the first host answers on all hosts, so all must ask at the same place.
        """
        start = time.perf_counter()

        def has_time(limit_s: float) -> bool:
            mine = time.perf_counter() - start < limit_s
            return bool(json.loads(hosts.exchange(json.dumps(mine))[0]))

        try:
            yield has_time
        finally:
            self.measured[f"{STAGE}{name}_s"] = time.perf_counter() - start

    def so_far(self, text: str, exit_code: int) -> "Findings":
        """A copy, with this host's new problems and the one that ends the rehearsal early. Waits for no other host.

        Another thread may add more in the meantime: each list and dict is copied in one step of the interpreter.
        """
        copy = Findings()
        copy.problems = [*self.problems, *self._new, Problem(text, exit_code)]
        copy.warnings, copy.facts, copy.measured = self.warnings.copy(), self.facts.copy(), self.measured.copy()
        return copy

    def agree(self) -> None:
        """Shares the new problems of all hosts. All hosts must call it at the same place."""
        texts = hosts.exchange(json.dumps([dataclasses.astuple(problem) for problem in self._new]))
        found: dict[Problem, list[int]] = {}
        for host, text in enumerate(texts):
            for problem in json.loads(text):
                found.setdefault(Problem(*problem), []).append(host)
        for problem, where in found.items():
            several = f"host {', '.join(map(str, where))}: " if len(where) < len(texts) else ""
            self.problems.append(dataclasses.replace(problem, text=several + problem.text))
        self._new = []

    def agree_on(self, names: set[str]) -> set[str]:
        """The names that any host gives. Also shares the new problems."""
        self.agree()
        return {name for text in hosts.exchange(json.dumps(sorted(names))) for name in json.loads(text)}

    def worst(self) -> dict[str, float]:
        """The measured figures of the worst host."""
        of_hosts = [json.loads(text) for text in hosts.exchange(json.dumps(self.measured))]
        keys = dict.fromkeys(key for figures in of_hosts for key in figures)
        return {
            key: (min if key.endswith("_per_s") else max)(figures[key] for figures in of_hosts if key in figures)
            for key in keys
        }

    def error(self) -> RehearsalError | None:
        """The error that ends the rehearsal, with the exit code of the first problem; None if nothing is wrong."""
        if not self.problems:
            return None
        lines = [problem.text for problem in self.problems]
        return RehearsalError("\n".join(["the run would not work", *lines]), self.problems[0].exit_code)


def stages_s(measured: Mapping[str, float]) -> dict[str, float]:
    """Stage -> how many seconds it took, in the order of the rehearsal (`Findings.stage`)."""
    return {key.removeprefix(STAGE)[:-2]: value for key, value in measured.items() if key.startswith(STAGE)}


def _joined(text: str) -> list[str]:
    """The lines of a message; a line that is indented continues the one before, such as a command."""
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(" ") and lines:
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    return lines
