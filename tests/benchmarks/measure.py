"""CPU time, not wall time, so that a machine that others use as well still tells one path from another. Linux only."""

import contextlib
import pathlib
import statistics
import threading
import time
from collections.abc import Callable, Mapping


def interleaved(jobs: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Runs all jobs by turns, `rounds` times; each returns how many clips it made.

    Returns:
        name -> CPU seconds a clip of each round, all threads of the process together. What a job leaves to do in the
        background, such as reading ahead, is waited for and counted as its own.
    """
    for job in jobs.values():
        job()
    until_idle()
    found = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.process_time()
            made = job()
            until_idle()
            found[name].append((time.process_time() - start) / made)
    return found


def ratio(found: Mapping[str, list[float]], over: str, under: str) -> float:
    """How many times as much `over` takes as `under`: the median of the rounds' own ratios."""
    return statistics.median(a / b for a, b in zip(found[over], found[under], strict=True))


def milliseconds(found: Mapping[str, list[float]], name: str) -> float:
    return 1000 * statistics.median(found[name])


def until_idle() -> None:
    """Waits until no other thread has wanted a core at five looks in a row.

    What a thread wants, not what it gets: on a busy machine one can wait for its core for long and use nothing.
    """
    looks = 0
    while looks < 5:
        time.sleep(0.01)
        looks = 0 if _others_want_a_core() else looks + 1


def _others_want_a_core() -> bool:
    """Whether any thread of this process but the caller's is running, runnable or waiting for a disk."""
    own = threading.get_native_id()
    states = []
    for stat in pathlib.Path("/proc/self/task").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            if int(stat.parent.name) != own:
                states.append(stat.read_text().rpartition(")")[2].split()[0])
    return any(state in "RD" for state in states)
