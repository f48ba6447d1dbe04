"""Ends a process that hangs: each phase of a run has a timeout (config.timeouts)."""

import dataclasses
import faulthandler
import sys
import threading
import time
from collections.abc import Callable, Mapping

from cover_jax import errors

_GRACE_S = 15  # if the interpreter itself hangs, C code ends the process after this extra time, without a last line
_POLL_S = 0.5

_PHASES = {
    "connect": "finding the other hosts",
    "start": "the start of the run",
    "compile": "compilation and the first step on these datasets",
    "step": "a step, its input included",
    "evaluation": "the evaluation of one dataset",
    "save": "saving a checkpoint",
    "exit": "the end of the run",
}


@dataclasses.dataclass(frozen=True)
class _Phase:
    """The current phase of a process. `deadline` is a value of time.monotonic()."""

    name: str
    detail: str
    timeout_s: float
    deadline: float


class Watchdog:
    """Watches this process inside its `with` block, starting with the phase "connect".

    Args:
        timeouts: config.timeouts: seconds per phase, as "PHASE_s".
        end: called with exit code and cause, in a thread, when a phase takes too long. It must not return.
    """

    def __init__(self, timeouts: Mapping[str, float], end: Callable[[int, str], None]):
        self._timeouts, self._end = timeouts, end
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self.enter_phase("connect")
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._stopped.set()
        faulthandler.cancel_dump_traceback_later()
        self._thread.join()

    def enter_phase(self, name: str, detail: str = "") -> None:
        """Starts a phase and ends the previous one.

        Args:
            name: one of config.timeouts, without "_s".
            detail: for the message: step and dataset.
        """
        timeout_s = self._timeouts[f"{name}_s"]
        self._phase = _Phase(name, detail, timeout_s, time.monotonic() + timeout_s)
        faulthandler.dump_traceback_later(timeout_s + _GRACE_S, exit=True)

    def _watch(self) -> None:
        while not self._stopped.wait(_POLL_S):
            phase = self._phase
            if time.monotonic() > phase.deadline:
                faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
                self._end(errors.HUNG, _describe(phase))


def _describe(phase: _Phase) -> str:
    where = f" ({phase.detail})" if phase.detail else ""
    return (
        f"hung: {_PHASES[phase.name]}{where} took longer than config.timeouts.{phase.name}_s={phase.timeout_s:g}; "
        "input, storage or another host hangs, see the stacks of all threads above; start all hosts again, or raise "
        "this timeout"
    )
