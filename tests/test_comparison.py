"""Another run's accuracies beside this one's: only on the same examples, and with an error bar that is right."""

import re

import numpy as np
import pytest
from etils import epath

from cover_jax import comparison, evaluated, metrics
from cover_jax import config as config_lib


def save(workdir, name, hits, fingerprint="same"):
    """What a run said: label 0 where it hit, 1 where not."""
    hits = np.array(hits, bool)
    zeros = np.zeros(len(hits))
    said = metrics.Predictions(np.arange(len(hits)), zeros, np.where(hits, 0, 1), hits, zeros, zeros)
    evaluated.save(epath.Path(workdir), name, evaluated.Evaluated(said, 3, fingerprint))


def compare(tmp_path, names=("clips",)):
    return comparison.table(epath.Path(tmp_path / "here"), str(tmp_path / "there"), list(names))


def test_a_difference_is_taken_example_by_example(tmp_path):
    hits, others = [1, 1, 1, 0, 1, 0, 1, 1], [1, 0, 0, 0, 1, 1, 1, 0]
    save(tmp_path / "here", "clips", hits)
    save(tmp_path / "there", "clips", others)
    difference = np.subtract(hits, others)
    error = difference.std(ddof=1) / np.sqrt(8)
    (row,) = re.findall(r"^clips .*", compare(tmp_path), re.MULTILINE)
    assert row.split() == ["clips", "8", "50.0%", "75.0%", "+25.0", "±", f"{100 * error:.1f}"]


def test_only_the_same_examples_are_compared(tmp_path):
    for name, fingerprint in (("clips", "same"), ("images", "other")):
        save(tmp_path / "here", name, [1, 0], "same")
        save(tmp_path / "there", name, [1, 1], fingerprint)
    save(tmp_path / "here", "here_alone", [1])
    found = compare(tmp_path, ("clips", "images", "here_alone"))
    assert "clips" in found and "images" not in found and "here_alone" not in found
    assert "none of the same validation examples" in compare(tmp_path, ("images", "here_alone"))


def test_one_example_has_no_error_bar_to_give(tmp_path):
    save(tmp_path / "here", "clips", [1])
    save(tmp_path / "there", "clips", [0])
    assert "+100.0 ± nan" in compare(tmp_path)


def test_a_folder_without_evaluations_is_refused_at_the_start(tmp_path):
    comparison.check("")
    with pytest.raises(config_lib.ConfigError, match="compare_with='.*': has no predictions/; .*--mode=evaluate"):
        comparison.check(str(tmp_path))
    save(tmp_path, "clips", [1])
    comparison.check(str(tmp_path))
