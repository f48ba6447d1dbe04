"""What a class is called once its clips are mirrored: "turn left" becomes "turn right".

A name is taken apart into words, whatever separates them: "turn left", "turn_left", "TurnLeft" and, where "turnright"
is there too, "turnleft". Words that name a side are exchanged for their opposites. If that gives the name of another
class, the two are swapped.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence

from data_pipelines.escaping import escape

SHOWN = 6  # classes of a kind, in a message

# Words that name a side or a sense of rotation -> their opposites. A class with one, but without the class of its
# opposite, is never mirrored.
_SURE = {
    "left": "right", "leftward": "rightward", "leftwards": "rightwards", "leftmost": "rightmost",
    "lefthand": "righthand", "lefthanded": "righthanded", "leftside": "rightside", "lefty": "righty",
    "clockwise": "counterclockwise",
    "links": "rechts", "linke": "rechte", "linken": "rechten", "linker": "rechter", "gauche": "droite",
    "izquierda": "derecha", "izquierdo": "derecho", "sinistra": "destra", "esquerda": "direita",
    "влево": "вправо", "слева": "справа", "налево": "направо", "левый": "правый", "левая": "правая",
    "左": "右", "←": "→", "⇐": "⇒", "⬅": "➡", "↖": "↗", "↙": "↘", "⟲": "⟳", "↺": "↻", "↶": "↷", "👈": "👉",
}  # fmt: skip
# Those that may mean something else: a class that has one and no opposite is not mirrored, and called unsure.
_UNSURE = {"l": "r", "lh": "rh", "lhs": "rhs", "port": "starboard", "sinister": "dexter"}
_MAY_MEAN_MORE = {"right", "links", "droite", "derecho"}  # "pulling it right out", a golf course, the law
# Other spellings -> the word of the tables above.
_SPELLINGS = {
    ("anticlockwise",): "counterclockwise", ("anti", "clockwise"): "counterclockwise",
    ("counter", "clockwise"): "counterclockwise", ("contraclockwise",): "counterclockwise",
    ("widdershins",): "counterclockwise", ("ccw",): "counterclockwise", ("acw",): "counterclockwise",
    ("cw",): "clockwise", ("lft",): "left", ("rgt",): "right",
}  # fmt: skip
_ENDS_LIKE_A_SIDE = re.compile(r"\w+(left|right)")
# English words that end like one, and name none; any other may be a side joined to another word, as "swipeleft".
_NO_SIDES = re.compile(
    r"\w*(bright|fright|wright|upright|outright|downright|forthright|alright|aright|copyright|birthright|cleft)"
)
_WORD = re.compile(
    # "LEFT" and "Turn" of "TurnLEFT", "1", "左", "вправо", "←"
    r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[左右]|[^\W\d_A-Za-z左右]+|[^\w\s.,;/|()\-]"
)

Words = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class MirroredNames:
    """What becomes of each class of a dataset when its clips are mirrored.

    Attributes:
        labels: label -> label of the mirrored clip; None: its clips must not be mirrored.
        unsure: labels of classes that are not mirrored because their name may name a side.
    """

    labels: tuple[int | None, ...]
    unsure: frozenset[int] = frozenset()

    def lines(self, class_names: Sequence[str]) -> list[str]:
        """What is swapped, never mirrored, or unsure, for people; [] if all classes stay themselves."""
        pairs = [(i, j) for i, j in enumerate(self.labels) if j is not None and i < j]
        never = [i for i, j in enumerate(self.labels) if j is None and i not in self.unsure]
        kinds = {
            "swapped": [f"{escape(class_names[i])} <-> {escape(class_names[j])}" for i, j in pairs],
            "never mirrored, for want of the opposite class": [escape(class_names[i]) for i in never],
            "unsure, and so not mirrored": [escape(class_names[i]) for i in sorted(self.unsure)],
        }
        return [f"{kind}: {_some(found)}" for kind, found in kinds.items() if found]


def mirrored_names(class_names: Sequence[str], more_opposites: Iterable[str] = ()) -> MirroredNames:
    """What becomes of each class.

    Args:
        class_names: in the order of the labels.
        more_opposites: further pairs of words, such as "port/starboard" or "stage left/stage right".

    Raises:
        ValueError: such a pair is not of the form A/B.
    """
    table = _Table(more_opposites)
    parts = [_words(name) for name in class_names]
    label_of: dict[Words, list[int]] = {}
    for label, words in enumerate(parts):
        label_of.setdefault(words, []).append(label)
    labels: list[int | None] = []
    unsure = set()
    for label, words in enumerate(parts):
        others = [other for turned in table.exchanged(words) for other in label_of.get(turned, [])]
        side = table.side(words)
        if len(others) == 1 and label_of[words] == [label]:
            labels.append(others[0])
            continue
        labels.append(label if side == "" else None)
        unsure |= {label} if side == "unsure" else set()
    return MirroredNames(tuple(labels), frozenset(unsure))


class _Table:
    """Words that name a side, each with its opposite."""

    def __init__(self, more_opposites: Iterable[str]):
        given = dict(_pair(text) for text in more_opposites)
        pairs = {(a,): (b,) for a, b in (_SURE | _UNSURE).items()} | given
        self._opposites = pairs | {b: a for a, b in pairs.items()}
        self._longest = max(map(len, self._opposites))
        sure = {(a,): (b,) for a, b in _SURE.items()} | given
        self._sure = sure.keys() | set(sure.values())
        self._sure -= {(word,) for word in _MAY_MEAN_MORE} - given.keys() - set(given.values())

    def exchanged(self, words: Words) -> list[Words]:
        """Names with all sides exchanged: of whole words, and of the ends of words, as in "swipeleft"."""
        turned = {self._exchange(words), self._exchange(tuple(_side_apart(word) for word in words), joined=True)}
        return [other for other in turned if other != words]

    def side(self, words: Words) -> str:
        """Whether a name has a side: "sure", "unsure" or ""."""
        found = [phrase for phrase in self._phrases(words) if phrase in self._opposites]
        if any(phrase in self._sure for phrase in found):
            return "sure"
        ends = (_ENDS_LIKE_A_SIDE.fullmatch(word) and not _NO_SIDES.fullmatch(word) for word in words)
        return "unsure" if found or any(ends) else ""

    def _phrases(self, words: Words) -> list[Words]:
        """The words, and the longest phrases of the table in place of theirs."""
        found, i = [], 0
        while i < len(words):
            sizes = range(min(self._longest, len(words) - i), 0, -1)
            size = next((size for size in sizes if words[i : i + size] in self._opposites), 1)
            found.append(words[i : i + size])
            i += size
        return found

    def _exchange(self, words: Words, joined: bool = False) -> Words:
        if joined:
            return tuple("".join(self._exchange(tuple(word.split(" ")))) if " " in word else word for word in words)
        return tuple(word for phrase in self._phrases(words) for word in self._opposites.get(phrase, phrase))


def _pair(text: str) -> tuple[Words, Words]:
    sides = [_words(side) for side in text.split("/")]
    if len(sides) != 2 or not all(sides) or sides[0] == sides[1]:
        raise ValueError(f"{text!r} is no pair of opposites; it must be like 'port/starboard'")
    return sides[0], sides[1]


def _words(name: str) -> Words:
    """The words of a name in lower case, each spelling of a rotation as one word."""
    words, i = [word.lower() for word in _WORD.findall(name)], 0
    found = []
    while i < len(words):
        size = next((size for size in (2, 1) if tuple(words[i : i + size]) in _SPELLINGS), 0)
        found.append(_SPELLINGS[tuple(words[i : i + size])] if size else words[i])
        i += size or 1
    return tuple(found)


def _side_apart(word: str) -> str:
    """A word that ends or begins with a side, with a blank before or after the side."""
    if word in ("left", "right"):
        return word
    for side in ("left", "right"):
        if word.endswith(side):
            return f"{word.removesuffix(side)} {side}"
        if word.startswith(side):
            return f"{side} {word.removeprefix(side)}"
    return word


def _some(found: Sequence[str]) -> str:
    shown = "; ".join(found[:SHOWN])
    return f"{shown}; and {len(found) - SHOWN} more" if len(found) > SHOWN else shown
