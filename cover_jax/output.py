"""What a run prints may be lost, where the log's disk is full, but it must not end the run."""

import contextlib
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
