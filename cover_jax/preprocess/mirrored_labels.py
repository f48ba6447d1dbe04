"""Which class a clip belongs to once it is mirrored: "turn left" becomes "turn right"."""

import re
from collections.abc import Sequence

import numpy as np

NEVER = -1  # stands for no class: a clip of this class must not be mirrored

_OPPOSITES = {
    "left": "right", "leftward": "rightward", "leftwards": "rightwards", "clockwise": "counterclockwise",
}  # fmt: skip
_OPPOSITES |= {right: left for left, right in _OPPOSITES.items()}

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")  # of "turn left", "turn_left" and "TurnLeft"


def mirrored_labels(class_names: Sequence[str]) -> np.ndarray:
    """Label -> label of the mirrored clip, int32 [C].

    A class without such a word stays itself. Two whose names differ by all of these words exchanged are each other's.
    One with such a word, but without that other class, has NEVER.
    """
    label_of = {name.lower(): label for label, name in enumerate(class_names)}
    labels = np.arange(len(class_names), dtype=np.int32)
    for label, name in enumerate(class_names):
        other = _exchanged(name)
        if other != name.lower():
            labels[label] = label_of.get(other, NEVER)
    return labels


def _exchanged(name: str) -> str:
    return _WORD.sub(lambda word: _OPPOSITES.get(word[0].lower(), word[0]), name).lower()
