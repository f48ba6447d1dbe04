"""Finds the classes of one list of names in another."""

import re
from collections.abc import Sequence


def match_names(own: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """The index in `own` of each wanted name: of the same name, or else of the only one that is like it.

    Names are alike if they have the same letters and digits, without case: "sky diving", "Sky-diving" and "sky_diving".
    Two wanted names that are alike are found only if they are the same.
    """
    exact = {name: index for index, name in enumerate(own)}
    alike: dict[str, list[int]] = {}
    for index, name in enumerate(own):
        alike.setdefault(_plain(name), []).append(index)
    plain = [_plain(name) for name in wanted]

    def find(name: str, like: str) -> int | None:
        if name in exact:
            return exact[name]
        found = alike.get(like, [])
        return found[0] if len(found) == 1 == plain.count(like) else None

    return [find(name, like) for name, like in zip(wanted, plain, strict=True)]


def _plain(name: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", name.casefold()))
