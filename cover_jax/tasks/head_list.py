"""The heads of a dataset that has several: the text of config.datasets.NAME.heads."""

import re
from typing import NamedTuple

_HEAD = re.compile(r"\s*(?P<name>[a-z0-9_]+)\s*:\s*(?P<classes>[1-9]\d*)\s*(:\s*(?P<weight>\d+(\.\d*)?)\s*)?")


class Head(NamedTuple):
    """One of the heads.

    Attributes:
        name: what stands before the colon in the names of its classes.
        num_classes: number of its classes.
        weight: of its loss in that of the dataset.
    """

    name: str
    num_classes: int
    weight: float


class HeadList(tuple[Head, ...]):
    """The heads in the order of their classes."""

    @classmethod
    def parse(cls, text: str) -> "HeadList":
        """The heads of "verb:97, noun:300" or, with weights, "verb:97:1, noun:300:0.5".

        Raises:
            ValueError: it is another text, or a head is named twice.
        """
        matches = [_HEAD.fullmatch(part) for part in text.split(",")] if text.strip() else []
        found = [Head(m["name"], int(m["classes"]), float(m["weight"] or 1)) for m in matches if m]
        if len(found) < len(matches) or len({head.name for head in found}) < len(found):
            raise ValueError(f"{text!r}: must be HEAD:CLASSES or HEAD:CLASSES:WEIGHT of each head, with commas between")
        return cls(found)

    @classmethod
    def of_names(cls, class_names: tuple[str, ...]) -> dict[str, int]:
        """Head -> number of its classes, in the order of the classes; {} if they are not those of heads, one by one."""
        found: dict[str, int] = {}
        for name in class_names:
            head, colon, _ = name.partition(": ")
            if not colon or (head in found and head != list(found)[-1]):
                return {}
            found[head] = found.get(head, 0) + 1
        return found
