"""Storage and output that fail for a while: what is written for people only must not end a run."""

import contextlib
import logging
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def tolerate_storage_errors(what: str) -> Iterator[None]:
    """Inside, errors of a disk or a bucket are said and passed over. `what` is lost then."""
    try:
        yield
    except Exception as error:
        # TensorFlow, by which TensorBoard's files are written, has errors of its own.
        if not isinstance(error, OSError) and not type(error).__module__.startswith("tensorflow"):
            raise
        message = " ".join(str(error).split())[:300]
        print(f"WARNING: {what}: not written: {type(error).__name__}: {message}", file=sys.stderr, flush=True)


class _TolerantStream:
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


def tolerate_output_errors() -> None:
    """From here on, writing to standard output and error raises nothing."""
    sys.stdout, sys.stderr = _TolerantStream(sys.stdout), _TolerantStream(sys.stderr)


def hide_orphaned_errors() -> None:
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
