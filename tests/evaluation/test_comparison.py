"""Another run's accuracies beside this one's: only on the same examples, and with an error bar that is right."""

import dataclasses
import re

import numpy as np
import pytest
from etils import epath

from configs import common
from cover_jax.errors import ConfigError
from cover_jax.evaluation import comparison, saved_predictions
from cover_jax.tasks import metrics
from data_pipelines import files


def save(workdir, name, hits, fingerprint="same"):
    """What a run said: label 0 where it hit, 1 where not."""
    hits = np.array(hits, bool)
    zeros = np.zeros(len(hits))
    said = metrics.Predictions(np.arange(len(hits)), zeros, np.where(hits, 0, 1), hits, zeros, zeros)
    saved_predictions.save(epath.Path(workdir), name, saved_predictions.SavedPredictions(said, 3, fingerprint))


def compare(tmp_path, names=("clips",)):
    return comparison.table(epath.Path(tmp_path / "here"), str(tmp_path / "there"), list(names))


def test_a_difference_is_taken_example_by_example(tmp_path):
    hits, others = [1, 1, 1, 0, 1, 0, 1, 1], [1, 0, 0, 0, 1, 1, 1, 0]
    save(tmp_path / "here", "clips", hits)
    save(tmp_path / "there", "clips", others)
    difference = np.subtract(hits, others)
    error = difference.std(ddof=1) / np.sqrt(8)
    (row,) = re.findall(r"^clips .*", compare(tmp_path), re.MULTILINE)
    assert re.split("  +", row) == [
        "clips", "8", "3", "50.0 ± 17.7%", "3", "75.0 ± 15.3%", f"+25.0 ± {100 * error:.1f}"
    ]  # fmt: skip


def test_only_the_same_examples_are_compared_and_what_is_left_out_is_told(tmp_path):
    for name, fingerprint in (("clips", "same"), ("images", "other"), ("damaged", "same")):
        save(tmp_path / "here", name, [1, 0], "same")
        save(tmp_path / "there", name, [1, 1], fingerprint)
    save(tmp_path / "here", "here_alone", [1])
    (tmp_path / "there" / "predictions" / "damaged.npz").write_bytes(b"")
    *compared, images, damaged, alone = compare(tmp_path, ("clips", "images", "damaged", "here_alone")).splitlines()
    assert len(compared) == 7 and compared[4].startswith("clips ")
    assert images == f"images is not compared: {tmp_path}/there was evaluated on other examples"
    assert damaged.startswith(f"WARNING: damaged is not compared: {tmp_path}/there/predictions/damaged.npz is damaged")
    assert alone == f"here_alone is not compared: {tmp_path}/there has no predictions/here_alone.npz"
    assert compare(tmp_path, ("images",)) == images


@pytest.mark.parametrize("other", ["http://a/b", "/dev/null", "a\0b", "~nobody/x"])
def test_what_is_no_folder_ends_no_run(tmp_path, other):
    save(tmp_path / "here", "clips", [1, 0])
    said = comparison.table(epath.Path(tmp_path / "here"), other, ["clips"])
    assert re.fullmatch(r"(WARNING: )?clips is not compared: .*", said)
    with pytest.raises(ConfigError, match="config.compare_with='.*': "):
        comparison.check(config_with(other, clips="validation"))


def test_one_example_has_no_error_bar_to_give(tmp_path):
    save(tmp_path / "here", "clips", [1])
    save(tmp_path / "there", "clips", [0])
    assert "+100.0 ± nan" in compare(tmp_path)


def config_with(other: str, **eval_splits: str):
    config = common.get_config()
    config.compare_with = other
    for name, split in eval_splits.items():
        config.datasets[name] = common.dataset()
        config.datasets[name].eval_split = split
    return config


def test_a_folder_with_nothing_to_compare_is_refused_at_the_start(tmp_path, monkeypatch):
    comparison.check(config_with("", clips="validation"))
    config = config_with(str(tmp_path), clips="validation", others="validation", not_evaluated="")
    with pytest.raises(ConfigError, match="has no predictions/clips.npz or predictions/others.npz; it must"):
        comparison.check(config)
    save(tmp_path, "not_evaluated", [1])
    with pytest.raises(ConfigError, match="has no predictions/clips.npz"):
        comparison.check(config)
    save(tmp_path, "clips", [1])
    comparison.check(config)
    with pytest.raises(ConfigError, match="this run evaluates none"):
        comparison.check(config_with(str(tmp_path), clips=""))
    monkeypatch.setenv("HOME", str(tmp_path))
    comparison.check(config_with("~", clips="validation"))


def test_a_damaged_evaluation_is_refused_at_the_start(tmp_path):
    save(tmp_path, "clips", [1, 0])
    path = tmp_path / "predictions" / "clips.npz"
    config = config_with(str(tmp_path), clips="validation")
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match="config.compare_with='.*': .*clips.npz is damaged"):
        comparison.check(config)
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="config.compare_with='.*': .*clips.npz cannot be read: IsADirec"):
        comparison.check(config)


def assert_same(found, saved):
    for field in dataclasses.fields(saved):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(saved, field.name))


def test_any_damage_is_named(tmp_path):
    """A byte after the other is turned over: what is read is as it was, or it is refused as damaged."""
    save(tmp_path, "clips", [1, 0, 1])
    path, refused = tmp_path / "predictions" / "clips.npz", 0
    whole, saved = path.read_bytes(), saved_predictions.load(epath.Path(tmp_path), "clips")
    for position in range(0, len(whole), 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 255]) + whole[position + 1 :])
        try:
            found = saved_predictions.load(epath.Path(tmp_path), "clips")
        except ValueError as error:
            refused += 1
            assert str(error).startswith(f"{path} is damaged: ") and "pickle" not in str(error)
        else:
            assert (found.step, found.fingerprint) == (saved.step, saved.fingerprint)
            assert_same(found.predictions, saved.predictions)
    assert refused > len(whole) / 6


def test_predictions_may_be_larger_than_a_small_file(tmp_path, monkeypatch):
    """100,000 clips with 600 probabilities each are."""
    save(tmp_path, "clips", [1, 0, 1])
    monkeypatch.setattr(files, "MAX_SMALL_BYTES", 10)
    assert saved_predictions.load(epath.Path(tmp_path), "clips").step == 3
