"""What a key of a config is made of: its default, what it may be, and what it does. A class of keys is a group.

A rule is for values of the default's type; that a value has this type is checked before (`checks`).
"""

import dataclasses
import enum
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference


@dataclasses.dataclass(frozen=True)
class Rule:
    """What values a key may have.

    Attributes:
        holds: whether it may have this value.
        text: the allowed values in words, after "must be".
        choices: the allowed values, where they are a list of names.
    """

    holds: Callable[[Any], object]  # of the type of its key's default
    text: str
    choices: tuple[str, ...] = ()


def one_of(*choices: str) -> Rule:
    """One of these names."""
    return Rule(lambda value: value in choices, "one of " + ", ".join(map(repr, choices)), choices)


def between(least: float, most: float) -> Rule:
    """A number from `least` to `most`, both included."""
    return Rule(lambda value: least <= value <= most, f"from {least} to {most}")


def described(text: str) -> Rule:
    """Any value of the type; what it may be is checked where more is known, and said here."""
    return Rule(lambda value: True, text)


def _is_regex(value: str) -> bool:
    try:
        re.compile(value)
    except re.error:
        return False
    return True


POSITIVE = Rule(lambda value: value > 0, "greater than 0")
NOT_NEGATIVE = Rule(lambda value: value >= 0, "0 or greater")
SHARE = between(0, 1)
BELOW_ONE = Rule(lambda value: 0 <= value < 1, "from 0 to below 1")
REGEX = Rule(_is_regex, "a regular expression")
RANGE = Rule(lambda value: len(value) == 2 and 0 < value[0] <= value[1], "two numbers, 0 < first <= second")
RGB = Rule(lambda value: len(value) == 3, "three numbers, for red, green and blue")
SWITCH = described("True or False")
TEXT = described("any text")


class Changes(enum.Enum):
    """What another value of a key of the model changes. The value of each is the text for people."""

    SHAPE = "the shapes of parameters, and what the model computes"
    FUNCTION = "what the model computes, with the same parameters"
    ROUNDING = "only the rounding of what the model computes"
    TRAINING = "only what is computed in training"
    INIT = "only the first values of parameters"
    SPEED = "only time and memory, and last bits"


@dataclasses.dataclass(frozen=True)
class Key:
    """One key: its default, what it may be, and what it does, in plain sentences with the unit.

    Attributes:
        default: its default.
        rule: what it may be.
        text: what it does.
        on_off: what True and False stand for, where version 0.1.0 had only these. Configs and checkpoints that have
            them go on working.
        changes: for a key of the model, what another value of it changes; None for other keys.
        alike: values that compute the same, so that another one of them changes only time and memory.
    """

    default: bool | int | float | str | tuple[int | float | str, ...]
    rule: Rule
    text: str
    on_off: tuple[str, str] | None = None
    changes: Changes | None = None
    alike: tuple[str, ...] = ()

    def same(self, one: object, other: object) -> bool:
        """Whether two values compute the same. JSON has lists in place of tuples."""
        one, other = (tuple(value) if isinstance(value, list) else value for value in (one, other))
        return one == other or {one, other} <= set(self.alike)

    def current(self, value: Any) -> Any:
        """A value as it is written today."""
        if self.on_off is None or not isinstance(value, bool):
            return value
        return self.on_off[not value]

    def field(self) -> Any:
        """The default as a field of a ConfigDict, which takes the types that the key takes."""
        return self.default if self.on_off is None else FieldReference(self.default, field_type=object)

    def description(self) -> str:
        """The text, on one line."""
        return " ".join(self.text.split())


class Group:
    """A subclass is a group of keys, in the order in which it declares them; its docstring says what they are for."""

    @classmethod
    def keys(cls) -> dict[str, "Key | type[Group] | Each"]:
        """Name -> the key, or the group of keys, of that name."""
        return {name: entry for name, entry in vars(cls).items() if not name.startswith("_")}

    @classmethod
    def config(cls) -> ConfigDict:
        """The defaults."""
        config = ConfigDict()
        for name, entry in cls.keys().items():
            config[name] = entry.field() if isinstance(entry, Key) else entry.config()
        return config

    @classmethod
    def description(cls) -> str:
        """What the keys are for, on one line."""
        return " ".join((inspect.getdoc(cls) or "").split())


@dataclasses.dataclass(frozen=True)
class Each:
    """Any number of groups of the same keys, under names that the config chooses; none by default."""

    group: type[Group]
    text: str

    def config(self) -> ConfigDict:
        """The defaults: no group."""
        return ConfigDict()


def find(group: type[Group], path: str) -> Key | None:
    """The key at a path such as "model.size_px" or, in an `Each`, "datasets.NAME.weight"; None: there is none."""
    entry: Key | type[Group] | Each | None = group
    for name in path.split("."):
        if isinstance(entry, Each):
            entry = entry.group  # whatever the name
        elif entry is None or isinstance(entry, Key):
            return None
        else:
            entry = entry.keys().get(name)
    return entry if isinstance(entry, Key) else None


def that_change(group: type[Group], *changes: Changes) -> tuple[str, ...]:
    """Names of the keys of a group that change one of these."""
    return tuple(name for name, key in group.keys().items() if isinstance(key, Key) and key.changes in changes)


def differing(group: type[Group], before: Mapping[str, Any], now: Mapping[str, Any], *changes: Changes) -> list[str]:
    """Names of the keys of a group that change one of these, and whose values do not compute the same."""
    entries = {name: key for name, key in group.keys().items() if isinstance(key, Key) and key.changes in changes}
    return [name for name, key in entries.items() if not key.same(before[name], now[name])]


def walk(group: type[Group], prefix: str = "") -> Iterator[tuple[str, type[Group]]]:
    """(path, group) of a group and of all groups in it, in the order of declaration; NAME is any name of an `Each`."""
    yield prefix.rstrip("."), group
    for name, entry in group.keys().items():
        if isinstance(entry, Each):
            yield from walk(entry.group, f"{prefix}{name}.NAME.")
        elif not isinstance(entry, Key):
            yield from walk(entry, f"{prefix}{name}.")
