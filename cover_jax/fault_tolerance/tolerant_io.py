"""Tolerates temporary errors of storage and output: files and lines that only people read must not end a run."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import TextIO

from data_pipelines import escaping


@contextlib.contextmanager
def tolerate_storage_errors(what: str) -> Iterator[None]:
    """Inside, errors of a disk or a bucket are reported as a warning and ignored. Then `what` is not written."""
    try:
        yield
    except Exception as error:
        if not is_storage_error(error):
            raise
        message = escaping.one_line(error, 300)
        print(f"WARNING: {what}: not written: {type(error).__name__}: {message}", file=sys.stderr, flush=True)


def is_storage_error(error: Exception) -> bool:
    """Whether a disk or a bucket is the cause. TensorFlow, which writes to buckets, has its own error types."""
    return isinstance(error, OSError) or type(error).__module__.startswith("tensorflow")


class TolerantStream:
    """A text stream that discards what cannot be written: everything if `stream` is None (a closed output)."""

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
    """Inside its `with` block, writing to standard output and error raises nothing, even if they are closed."""
    with contextlib.ExitStack() as stack:
        for name, descriptor in (("stdout", 1), ("stderr", 2)):
            before = getattr(sys, name)
            stream = before or stack.enter_context(_null_output(descriptor))
            stack.callback(setattr, sys, name, before)
            setattr(sys, name, TolerantStream(stream))
        yield


@contextlib.contextmanager
def _null_output(descriptor: int) -> Iterator[TextIO]:
    """A null stream for a closed output. Without it, the next opened file would get its file descriptor."""
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
    """Inside its `with` block, unhandled errors of asyncio tasks are not printed.

    If several writes of a checkpoint fail, orbax raises only the first error. The others would print hundreds of
    tracebacks per save and hide the line that names the cause.
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
