"""What a run prints: it may be lost, where the log's disk is full, but does not end the run; one error is said once."""

import contextlib
import logging
import sys


class _Unfailing:
    """A text stream that loses what cannot be written."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def never_fail() -> None:
    """From here on, writing to standard output and error raises nothing."""
    sys.stdout, sys.stderr = _Unfailing(sys.stdout), _Unfailing(sys.stderr)


def leave_out_orphans() -> None:
    """From here on, errors of asyncio that nobody waits for any more are not printed.

    Of the writes of a checkpoint that fail, orbax raises the first one's error and leaves the others behind: hundreds
    of tracebacks a save, in which the line that names the cause cannot be found.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    say = sys.unraisablehook

    def say_unless_orphan(unraisable) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            say(unraisable)

    sys.unraisablehook = say_unless_orphan
