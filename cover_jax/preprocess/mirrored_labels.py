"""Which class a clip belongs to once it is mirrored, as numbers; `mirrored_names` has the words."""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from data_pipelines.sources import mirrored_names

NEVER = -1  # stands for no class: a clip of this class must not be mirrored
MODES = ("swap", "never", "always")
_BEFORE = {True: "swap", False: "never"}  # what `augment.flip` was in version 0.1.0


def flip_mode(value: bool | str) -> str:
    """One of MODES, also of a value of `augment.flip` in a config of version 0.1.0.

    Raises:
        ValueError: it is neither.
    """
    mode = _BEFORE[value] if isinstance(value, bool) else value
    if mode not in MODES:
        raise ValueError(f"augment.flip={value!r}: must be one of {', '.join(MODES)}")
    return mode


def opposites(text: str) -> tuple[str, ...]:
    """The pairs of `augment.opposites`: "port/starboard, bow/stern" is two."""
    return tuple(pair.strip() for pair in text.split(",") if pair.strip())


def mirrored_labels(class_names: Sequence[str], more_opposites: Sequence[str] = ()) -> np.ndarray:
    """Label -> label of the mirrored clip, int32 [C]; NEVER where a clip must not be mirrored.

    Args:
        class_names: in the order of the labels.
        more_opposites: pairs of words, such as "port/starboard", beside those that are known.
    """
    found = mirrored_names.mirrored_names(class_names, more_opposites)
    return np.array([NEVER if label is None else label for label in found.labels], np.int32)


def describe(class_names: Sequence[str], augment: ConfigDict) -> list[str]:
    """What becomes of classes that name a side, in lines for the start of a run; [] where there is nothing to say."""
    mode = flip_mode(augment.flip)
    if mode == "never":
        return []
    lines = mirrored_names.mirrored_names(class_names, opposites(augment.opposites)).lines(class_names)
    if mode == "always" and lines:
        return ["mirrored: all classes, and each keeps its label (augment.flip='always')"]
    return [f"mirrored clips: {line}" for line in lines]
