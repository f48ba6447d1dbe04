"""Ends a process that does not get on: each phase of a run has a time in which it must end (config.timeouts)."""

import faulthandler
import sys
import threading
import time

from ml_collections import ConfigDict

from cover_jax import errors
from cover_jax.fault_tolerance import peers

_GRACE_S = 15  # after which a process whose interpreter is stuck itself is ended from C, without a last word
_LOOK_S = 0.5

_PHASES = {
    "connect": "finding the other hosts",
    "start": "the start of the run",
    "compile": "compilation and the first step on these datasets",
    "step": "a step, its input included",
    "evaluation": "the evaluation of one dataset",
    "save": "saving a checkpoint",
    "exit": "the end of the run",
}

_timeouts: ConfigDict | None = None
_phase, _detail, _deadline = "", "", float("inf")


def start(timeouts: ConfigDict) -> None:
    """From here on the process is watched; it is in the phase "connect"."""
    global _timeouts
    _timeouts = timeouts
    enter("connect")
    threading.Thread(target=_watch, name="watchdog", daemon=True).start()


def enter(phase: str, detail: str = "") -> None:
    """The phase that begins now; ends the one before. Before `start`, as where parts are used alone, does nothing.

    Args:
        detail: for the message: which step, which dataset.
    """
    global _phase, _detail, _deadline
    if _timeouts is None:
        return
    timeout_s = _timeouts[f"{phase}_s"]
    _phase, _detail, _deadline = phase, detail, time.monotonic() + timeout_s
    faulthandler.dump_traceback_later(timeout_s + _GRACE_S, exit=True)


def stop() -> None:
    """From here on the process is not watched."""
    global _timeouts, _deadline
    _timeouts, _deadline = None, float("inf")
    faulthandler.cancel_dump_traceback_later()


def _watch() -> None:
    while _timeouts is not None:
        time.sleep(_LOOK_S)
        if time.monotonic() > _deadline:
            _end()


def _end() -> None:
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    where = f" ({_detail})" if _detail else ""
    timeout_s = _timeouts[f"{_phase}_s"]
    peers.end(
        errors.HUNG,
        f"hung: {_PHASES[_phase]}{where} took longer than config.timeouts.{_phase}_s={timeout_s:g}; input, storage or "
        "another host stands still, see the stacks of all threads above; start all hosts again, or give it more time",
    )
