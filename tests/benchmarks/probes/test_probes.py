"""The divisions of the benchmark: no group is in two parts, and what is reported was not used to choose."""

import types

import numpy as np
import pytest

from tests.benchmarks.probes import clips, features, heads, rows


@pytest.mark.parametrize("seed", range(5))
def test_each_seed_divides_all_groups_anew(seed):
    division = clips.Division.of(seed)
    parts = division.train, division.choice, division.validation
    assert [len(part) for part in parts] == [14, 4, 7] and len(frozenset.union(*parts)) == clips.GROUPS
    assert division == clips.Division.of(seed) != clips.Division.of(seed + 1)


def test_a_split_has_the_records_of_its_groups():
    assert clips.expression({"train": [3, 8, 3], "validation": [8, 1]}, {3, 1}) == (
        "train[0:1]+train[2:3]+validation[1:2]"
    )
    assert clips.group_of("Lunges/v_Lunges_g07_c02.mp4") == 7
    with pytest.raises(ValueError, match="other.mp4: is not named as a clip of UCF101"):
        clips.group_of("other.mp4")


def test_a_setting_is_chosen_on_its_own_clips_the_first_of_equal_ones():
    hits = {"a": np.array([0, 1, 1, 1, 1]), "b": np.array([1, 1, 0, 0, 0]), "c": np.array([1, 1, 1, 1, 1])}
    assert rows.choose(hits, np.array([0, 1])) == "b"


def test_a_linear_head_learns_separable_features_and_nothing_of_the_clips_left_out():
    rng = np.random.default_rng(0)
    label_N = np.arange(60) % heads.NUM_CLASSES
    cls_ND = rng.standard_normal((60, 384)).astype(np.float32)
    cls_ND[:40] += 3 * np.eye(heads.NUM_CLASSES, 384, dtype=np.float32)[label_N[:40]]
    hits = heads.Probes("linear")(cls_ND, label_N, np.arange(20), seed=1)
    assert hits.keys() == {"linear_lr3", "linear_lr1", "linear_lr0_3"}
    assert all(of_head[:20].mean() == 1 for of_head in hits.values())
    assert 0 <= max(of_head[40:].mean() for of_head in hits.values()) < 0.6  # 1 if they were trained on
    found = types.SimpleNamespace(cls_ND=cls_ND, label_N=label_N)
    assert features.nearest(found, np.arange(20), 1)[:20].all()


def test_differences_are_over_the_seeds_of_both():
    def result(hits):
        return {"chosen": "", "hits": hits}

    table = rows.report({
        "logistic": {0: result([1, 0]), 1: result([1, 1]), 2: result([0, 0])},
        "fine_tuned": {0: result([1, 1]), 1: result([1, 1])},
    })  # fmt: skip
    logistic, tuned = table.splitlines()[2:]
    assert "50.0 ± 28.9" in logistic and "100.0 ± 0.0" in tuned and "+25.0 ± 25.0 (2)" in tuned
