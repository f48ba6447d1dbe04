"""Worker processes that end together with the process that started them."""

import concurrent.futures
import multiprocessing
import os
import threading
from collections.abc import Callable


def pool(workers: int, begin: Callable[..., None] | None = None, *arguments) -> concurrent.futures.ProcessPoolExecutor:
    """A pool of worker processes. They end with this process, even if it is killed; otherwise they would wait forever.

    Args:
        workers: number of processes.
        begin: a function that each process calls first, with `arguments`. It must be picklable, like the jobs.
    """
    spawn = multiprocessing.get_context("spawn")  # forking a process with threads of TensorFlow or JAX would hang
    return concurrent.futures.ProcessPoolExecutor(workers, spawn, _begin, (begin, arguments))


def _begin(begin: Callable[..., None] | None, arguments: tuple) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin:
        begin(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # only processes of a pool call this
    parent.join()
    os._exit(1)
