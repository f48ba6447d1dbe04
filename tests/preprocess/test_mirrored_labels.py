import pytest

from cover_jax.preprocess.mirrored_labels import NEVER, mirrored_labels


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
    (["counter-clockwise", "clockwise"], [NEVER, NEVER]),
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
