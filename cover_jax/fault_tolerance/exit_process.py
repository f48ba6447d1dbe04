"""Ends a process after an error: immediately, from any thread, with the cause as its last line."""

import contextlib
import os
import sys
from typing import NoReturn


def exit_process(code: int, last_line: str) -> NoReturn:
    """Ends this process immediately. `last_line` is the last line that it prints."""
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
