"""Processes that work for the one that began them, and end with it."""

import concurrent.futures
import multiprocessing
import os
import threading
from collections.abc import Callable


def pool(workers: int, begin: Callable[..., None] | None = None, *arguments) -> concurrent.futures.ProcessPoolExecutor:
    """Processes for jobs. They end when this process does, even if it is killed: they would wait for jobs for ever.

    Args:
        workers: how many.
        begin: what each does first, with `arguments`; to be pickled, as jobs are.
    """
    spawn = multiprocessing.get_context("spawn")  # a forked copy of TensorFlow's or JAX's threads would hang
    return concurrent.futures.ProcessPoolExecutor(workers, spawn, _begin, (begin, arguments))


def _begin(begin: Callable[..., None] | None, arguments: tuple) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin:
        begin(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # only processes of a pool come here
    parent.join()
    os._exit(1)
