"""The outcome for each of the real files of `codecs`: the last table of data_pipelines/media/README.md, row by row."""

import os
import pathlib
import re

import pytest

from tests.data_pipelines import media_tables

OUTCOMES = {name: outcome for name, (outcome, _) in media_tables.rows("Real files").items()}
COLOURS = media_tables.rows("Colours")


def test_every_real_file_has_its_row(real_data):
    assert sorted(OUTCOMES) == sorted(os.listdir(real_data / "codecs"))


@pytest.mark.parametrize("name", OUTCOMES)
def test_real_file(real_data, name):
    measured = media_tables.outcome(str(real_data / "codecs" / name))
    assert media_tables.holds(OUTCOMES[name], measured), measured


@pytest.mark.parametrize("name", [name for name, outcome in OUTCOMES.items() if " frames, " in outcome])
def test_colours_of_real_file(real_data, name):
    """How far they are from FFmpeg's own conversion, and why."""
    difference, cause = media_tables.colour_difference(str(real_data / "codecs" / name))
    assert cause != "unknown"
    stated, stated_cause = COLOURS.get(name, ("0.0", ""))
    assert difference == pytest.approx(float(stated), abs=0.1) and cause == stated_cause


def test_rows_that_are_no_longer_true_are_written_anew():
    guide = media_tables.GUIDE.read_text()
    name, stated = next(iter(OUTCOMES.items()))
    assert media_tables._with_outcomes(guide, "Real files", OUTCOMES) == guide
    changed = media_tables._with_outcomes(guide, "Real files", {name: "refused: other"})
    assert changed == guide.replace(f"| `{name}` | {stated} |", f"| `{name}` | refused: other |")
    lines = [f"| `{name}` | {' | '.join(cells)} |" for name, cells in COLOURS.items()]
    assert media_tables._with_colours(guide, lines) == guide
    assert media_tables._with_colours(guide, lines[:1]).count("\n") == guide.count("\n") - len(lines) + 1


def test_every_test_in_the_tables_exists():
    named = set(re.findall(r"`(test_\w+)`", media_tables.GUIDE.read_text()))
    defined = set()
    for path in pathlib.Path(__file__).parent.glob("test_*.py"):
        defined |= set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE))
    assert named and not named - defined
