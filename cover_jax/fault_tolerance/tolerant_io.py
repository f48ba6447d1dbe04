"""Storage and output that fail for a while: what is written for people only must not end a run."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import TextIO


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


class TolerantStream:
    """A text stream that loses what cannot be written; all of it if `stream` is None, as an output that is closed."""

    def __init__(self, stream: TextIO | None):
        self._stream = stream

    def write(self, text: str) -> int:
        """As that of the stream, without its errors."""
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As that of the stream, without its errors."""
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.flush()

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


@contextlib.contextmanager
def tolerate_output_errors() -> Iterator[None]:
    """While this is entered, writing to standard output and error raises nothing, even where they are closed."""
    with contextlib.ExitStack() as stack:
        for name, descriptor in (("stdout", 1), ("stderr", 2)):
            before = getattr(sys, name)
            stream = before or stack.enter_context(_null_output(descriptor))
            stack.callback(setattr, sys, name, before)
            setattr(sys, name, TolerantStream(stream))
        yield


@contextlib.contextmanager
def _null_output(descriptor: int) -> Iterator[TextIO]:
    """A stream that goes nowhere, on an output that is closed, or else the next file to be opened would become it."""
    try:
        os.fstat(descriptor)
        opened = os.open(os.devnull, os.O_WRONLY)
    except OSError:
        opened = os.open(os.devnull, os.O_WRONLY)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)
            opened = descriptor
    with open(opened, "w") as stream:
        yield stream


@contextlib.contextmanager
def hide_orphaned_errors() -> Iterator[None]:
    """While this is entered, errors of asyncio that nobody waits for any more are not printed.

    Of the writes of a checkpoint that fail, orbax raises the first one's error and leaves the others behind: hundreds
    of tracebacks per save, in which the line that names the cause cannot be found.
    """
    logger, report = logging.getLogger("asyncio"), sys.unraisablehook
    level = logger.level

    def report_unless_orphan(unraisable) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = report_unless_orphan
    try:
        yield
    finally:
        logger.setLevel(level)
        sys.unraisablehook = report
