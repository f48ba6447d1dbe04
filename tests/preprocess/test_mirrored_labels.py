import pytest
from ml_collections import ConfigDict

from cover_jax.preprocess.mirrored_labels import NEVER, describe, flip_mode, mirrored_labels, opposites


@pytest.mark.parametrize(("names", "expected"), [
    (["jump", "run"], [0, 1]),
    (["turn left", "jump", "turn right"], [2, 1, 0]),
    (["Pulling something from left to right", "Pulling something from right to left"], [1, 0]),  # of SSv2
    (["Turn Left", "turn right"], [1, 0]),
    (["turn_left", "turn_right"], [1, 0]),
    (["TurnLeft", "TurnRight"], [1, 0]),
    (["LEFT", "RIGHT"], [1, 0]),
    (["1-left", "2-left", "1-right"], [2, NEVER, 0]),
    (["left hook", "jump"], [NEVER, 1]),
    (["from left", "from right to left"], [NEVER, NEVER]),
    (["leftovers", "brightness", "bright light", "upright"], [0, 1, 2, 3]),  # parts of other words
    (["going leftwards", "going rightwards"], [1, 0]),
    (["Turning Hand Clockwise", "Turning Hand Counterclockwise"], [1, 0]),  # of Jester
    (["counter-clockwise", "clockwise"], [1, 0]),
    (["left or right"], [NEVER]),
    ([], []),
])  # fmt: skip
def test_mirrored_labels(names, expected):
    labels = mirrored_labels(names)
    assert labels.dtype == "int32"
    assert labels.tolist() == expected


def test_mirroring_twice_is_the_identity():
    names = ["left", "a", "right", "Left arm", "right arm", "clockwise", "b left"]
    labels = mirrored_labels(names)
    pairs = labels != NEVER
    assert (labels[labels[pairs]] == [0, 1, 2, 3, 4]).all()


@pytest.mark.parametrize(("value", "mode"), [(True, "swap"), (False, "never"), ("swap", "swap"), ("never", "never"),
                                             ("always", "always")])  # fmt: skip
def test_the_mode_of_flips_and_what_it_was_called_before(value, mode):
    assert flip_mode(value) == mode
    with pytest.raises(ValueError, match="augment.flip='sometimes': must be one of swap, never, always"):
        flip_mode("sometimes")


def test_further_opposites_may_be_given():
    names = ["to the bow", "to the stern", "jump"]
    assert mirrored_labels(names).tolist() == [0, 1, 2]
    assert mirrored_labels(names, opposites("port/starboard, bow/stern")).tolist() == [1, 0, 2]
    assert opposites("") == opposites(" , ") == ()


def test_what_becomes_of_classes_is_told():
    names = ["turn left", "turn right", "left hook", "port wine", "jump"]
    augment = ConfigDict({"flip": "swap", "opposites": ""})
    assert describe(names, augment) == [
        "mirrored clips: swapped: turn left <-> turn right",
        "mirrored clips: never mirrored, for want of the opposite class: left hook",
        "mirrored clips: unsure, and so not mirrored: port wine",
    ]
    augment.flip = "never"
    assert describe(names, augment) == []
    augment.flip = "always"
    assert describe(names, augment) == ["mirrored: all classes, and each keeps its label (augment.flip='always')"]
    assert describe(["jump", "run"], augment) == []
