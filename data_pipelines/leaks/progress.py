"""Reports the progress of the leak search, which can take minutes on large data."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

EVERY_S = 30.0  # between two lines

Item = TypeVar("Item")
Tell = Callable[[str], None]


def track(items: Iterable[Item], title: str, total: int, unit: str, tell: Tell) -> Iterator[Item]:
    """Yields the items, with a progress bar.

    Args:
        items: what is done one after another.
        title, unit: for the bar and the lines.
        total: number of items.
        tell: called with a line at the end of an item, at most once in EVERY_S.
    """
    next_s = time.monotonic() + EVERY_S
    for done, item in enumerate(tqdm(items, title, total, unit=unit, leave=False, delay=2.0), start=1):
        yield item
        if time.monotonic() >= next_s:
            tell(f"{title}: {done} of {total} {unit}s")
            next_s = time.monotonic() + EVERY_S


def tell_nobody(line: str) -> None:
    """For commands whose progress bar is enough."""
