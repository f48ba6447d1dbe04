"""Ends a process after an error: immediately, from any thread, with the cause as its last line."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

LAST_ACTS_S = 15.0  # for all of them together; storage may not answer

LastAct = Callable[[int, str], object]

_last_acts: list[LastAct] = []
_acting = threading.Lock()


def before_exit(act: LastAct) -> Callable[[], None]:
    """Lets `exit_process` first call `act(code, last_line)`, in another thread, and wait for it for LAST_ACTS_S.

    Returns:
        A function that takes it back.
    """
    _last_acts.append(act)

    def take_back() -> None:
        with contextlib.suppress(ValueError):  # it has been called, or taken back
            _last_acts.remove(act)

    return take_back


def exit_process(code: int, last_line: str) -> NoReturn:
    """Ends this process immediately, after the acts of `before_exit`. `last_line` is the last line that it prints."""
    with contextlib.suppress(BaseException):  # also a signal's exception, and a thread that cannot be started
        _act(code, last_line)
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):  # None: the output was closed before the start
            with contextlib.suppress(OSError):
                stream.flush()
        with open(os.dup(2), "w") as stderr:
            for output in (1, 2):  # another thread may still print a traceback, but the cause must be the last line
                os.dup2(os.open(os.devnull, os.O_WRONLY), output)
            print(last_line, file=stderr, flush=True)
    finally:  # even if the log's disk is full
        os._exit(code)


def _act(code: int, last_line: str) -> None:
    """Calls what `before_exit` was given, the last one first. A second thread that ends the process waits for it."""
    deadline = time.monotonic() + LAST_ACTS_S
    if not _acting.acquire(timeout=LAST_ACTS_S):
        return
    try:
        while _last_acts:
            act = _last_acts.pop()
            thread = threading.Thread(target=_call, args=(act, code, last_line), name="last-act", daemon=True)
            thread.start()
            thread.join(max(deadline - time.monotonic(), 0))
    finally:
        _acting.release()


def _call(act: LastAct, code: int, last_line: str) -> None:
    with contextlib.suppress(Exception):  # the process ends with its cause, whatever else fails
        act(code, last_line)
