"""What a class becomes when its clips are mirrored: by the words that people and publishers use for sides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.sources.mirrored_names import mirrored_names
from tests.data_pipelines import class_lists
from tests.helpers import fuzz

PAIRS = [
    ("rotate clockwise", "rotate anticlockwise"),
    ("rotate clockwise", "rotate counter-clockwise"),
    ("rotate clockwise", "rotate counter clockwise"),
    ("Clockwise", "COUNTERCLOCKWISE"),
    ("anti-clockwise turn", "Clockwise turn"),
    ("rotate_cw", "rotate_ccw"),
    ("RotateCW", "RotateCCW"),
    ("swipeleft", "swiperight"),
    ("leftturn", "rightturn"),
    ("swipe_left", "swipe-right"),
    ("SwipeLeft", "SwipeRight"),
    ("raise hand (L)", "raise hand (R)"),
    ("hand_l", "hand_r"),
    ("LHand", "RHand"),
    ("walk to port", "walk to starboard"),
    ("Pushing something from left to right", "Pushing something from right to left"),
    ("left-to-right", "right-to-left"),
    ("leftwards", "rightwards"),
    ("left-handed", "right-handed"),
    ("nach links", "nach rechts"),
    ("tourner a gauche", "tourner a droite"),
    ("girar a la izquierda", "girar a la derecha"),
    ("\u5de6\u8f6c", "\u53f3\u8f6c"),
    ("arrow \u2190", "arrow \u2192"),
    ("\u21ba", "\u21bb"),
    ("turn_left_2", "turn_right_2"),
]  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids=" <-> ".join)
def test_pairs_under_any_wording_are_swapped(pair):
    found = mirrored_names([*pair, "jump"])
    assert found.labels == (1, 0, 2) and not found.unsure
    assert mirrored_names([*pair[::-1], "jump"]).labels == (1, 0, 2)


@pytest.mark.parametrize(
    "name", ["left hook", "turn left", "clockwise", "from left to right", "left or right", "\u2190"]
)
def test_a_side_without_its_opposite_is_never_mirrored(name):
    found = mirrored_names([name, "jump"])
    assert found.labels == (None, 1) and not found.unsure


@pytest.mark.parametrize("name", ["port wine", "pulling it right out", "swipeleft", "hand_L", "vitamin R"])
def test_a_word_that_may_be_a_side_is_unsure_and_not_mirrored(name):
    found = mirrored_names([name, "jump"])
    assert found.labels == (None, 1) and found.unsure == {0}


@pytest.mark.parametrize("name", ["leftovers", "brightness", "bright light", "upright", "airport", "golf", "copyright"])
def test_other_words_stay_themselves(name):
    found = mirrored_names([name, "jump"])
    assert found.labels == (0, 1)


def test_jester():
    names = class_lists.JESTER
    found = mirrored_names(names)
    swapped = {names[i]: names[j] for i, j in enumerate(found.labels) if j not in (None, i)}
    assert swapped == {
        "Swiping Left": "Swiping Right",
        "Swiping Right": "Swiping Left",
        "Sliding Two Fingers Left": "Sliding Two Fingers Right",
        "Sliding Two Fingers Right": "Sliding Two Fingers Left",
        "Turning Hand Clockwise": "Turning Hand Counterclockwise",
        "Turning Hand Counterclockwise": "Turning Hand Clockwise",
    }
    assert None not in found.labels


def test_something_something():
    names = class_lists.SOMETHING_SOMETHING
    found = mirrored_names(names)
    swapped = {(names[i], names[j]) for i, j in enumerate(found.labels) if j is not None and i < j}
    assert swapped == {
        ("Pulling something from left to right", "Pulling something from right to left"),
        ("Pushing something from left to right", "Pushing something from right to left"),
        ("Turning the camera left while filming something", "Turning the camera right while filming something"),
    }
    out = "Plugging something into something but pulling it right out as you remove your hand"
    assert [names[i] for i, j in enumerate(found.labels) if j is None] == [out] == [names[i] for i in found.unsure]


def test_moments_in_time_has_no_sides():
    names = class_lists.MOMENTS_IN_TIME
    assert mirrored_names(names).labels == tuple(range(len(names)))


def test_names_that_differ_only_in_what_separates_words_are_not_mixed_up():
    assert mirrored_names(["turn left", "turn-left", "turn right"]).labels == (None, None, None)


def test_further_opposites():
    names = ["exit stage door", "exit fire door", "jump"]
    assert mirrored_names(names, ["stage door/fire door"]).labels == (1, 0, 2)
    for wrong in ("port", "a/b/c", "/a", "a/a"):
        with pytest.raises(ValueError, match="is no pair of opposites; it must be like 'port/starboard'"):
            mirrored_names(names, [wrong])


def test_what_is_told_is_short_and_printable():
    names = [f"turn {side} {i}" for i in range(9) for side in ("left", "right")] + ["left \x1b[0m"]
    lines = mirrored_names(names).lines(names)
    assert lines[0].startswith("swapped: turn left 0 <-> turn right 0; ") and lines[0].endswith("; and 3 more")
    assert lines[1] == r"never mirrored, for want of the opposite class: left \x1b[0m"
    assert mirrored_names(["a", "b"]).lines(["a", "b"]) == []


@fuzz.seeded(500)
@given(
    st.lists(
        st.lists(st.sampled_from(["left", "right", "L", "R", "cw", "ccw", "a", "port", "up"]), max_size=4), max_size=6
    )
)
def test_mirroring_twice_is_the_identity(words):
    names = list(dict.fromkeys(" ".join(name) for name in words))
    labels = mirrored_names(names).labels
    assert all(labels[j] == i for i, j in enumerate(labels) if j is not None)
