import collections
import hashlib
import time

import numpy as np
import pytest

from data_pipelines.stream.mixture import Mixture, parse_schedule


def test_golden_plan_never_changes():
    mixture = Mixture({"k": 2, "s": 1, "i": 1}, "interleave", seed=3)
    assert "".join(name for step in range(12) for name in mixture.at(step)) == "ksikikskskik"


MIXES = {
    "short block": ({"k": 0.4, "s": 0.25, "m": 0.2, "i": 0.15}, 7),
    "long block": ({"a": 1 / 3, "b": 2**0.5, "c": 3.14159}, 2**63 + 5),
    "rare dataset": ({"a": 0.9999, "b": 0.0001}, 0),
}
# sha256 of "name index " of steps 0..2999 and 10^9..10^9 + 999, written by version 0.2.0.
GOLDEN = {
    "short block": "ddb5f55a618dc2de",
    "long block": "6250c52f8074a903",
    "rare dataset": "1264cda6b69711b0",
}


@pytest.mark.parametrize("name", MIXES)
def test_golden_batches_never_change(name):
    mixture = Mixture(MIXES[name][0], "interleave", seed=MIXES[name][1])
    steps = [*range(3000), *range(10**9, 10**9 + 1000)]
    text = "".join(f"{dataset} {index} " for step in steps for dataset, index in mixture.at(step).items())
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == GOLDEN[name]


@pytest.mark.parametrize("weights", [{"a": 1}, {"a": 2, "b": 1}, {"a": 0.5, "b": 0.3, "c": 0.2}])
def test_every_block_is_in_exact_proportion(weights):
    mixture = Mixture(weights, "interleave", seed=0)
    block = round(sum(weights.values()) / min(weights.values())) * 2
    for start in range(0, 5 * block, block):
        seen = collections.Counter(name for step in range(start, start + block) for name in mixture.at(step))
        assert seen == {name: block * weight / sum(weights.values()) for name, weight in weights.items()}


def test_ordinals_count_each_datasets_batches_from_any_step():
    mixture = Mixture({"a": 3, "b": 2}, "interleave", seed=1)
    counts = collections.Counter()
    for step in range(60):
        assert mixture.counts(step) == {"a": counts["a"], "b": counts["b"]}
        ((name, ordinal),) = mixture.at(step).items()
        assert ordinal == counts[name]
        counts[name] += 1


@pytest.mark.parametrize(
    "weights", [{"a": 1 / 3, "b": 2**0.5, "c": 3.14159}, {"a": 240_000, "b": 169_000, "c": 1_281_167}]
)
def test_shares_that_fit_no_short_block_never_drift(weights):
    mixture = Mixture(weights, "interleave", seed=0)
    for step in (1000, 999_000, 10**9):  # ends of blocks
        counts = mixture.counts(step)
        assert sum(counts.values()) == step
        for name, weight in weights.items():
            assert abs(counts[name] - step * weight / sum(weights.values())) < 1


def test_rare_datasets_come_up_in_every_block():
    mixture = Mixture({"a": 0.9999, "b": 0.0001}, "interleave", seed=0)
    assert mixture.counts(10_000)["b"] == 1
    assert mixture.counts(50_000)["b"] == 5


def test_blocks_are_shuffled_by_seed_and_block():
    def order(seed, start):
        mixture = Mixture({"a": 8, "b": 8, "c": 1}, "interleave", seed)
        return [next(iter(mixture.at(step))) for step in range(start, start + 17)]

    assert len({tuple(order(seed, start)) for seed in (0, 1) for start in (0, 17, 34)}) == 6


@pytest.mark.parametrize(
    "weights",
    [{f"d{i}": 1 + i / 7 for i in range(100)}, {"a": 1.0, "b": 1e-6}],
    ids=["100 datasets", "one of weight 1e-6"],
)
def test_a_block_is_made_once_not_at_every_step(monkeypatch, weights):
    mixture, made = Mixture(weights, "interleave", seed=0), []
    monkeypatch.setattr(np.random, "Philox", lambda key, philox=np.random.Philox: made.append(key) or philox(key=key))
    first = 999
    seen = [mixture.at(step) for step in range(first, first + 500)]
    assert len(made) <= 2
    counts = collections.Counter(mixture.counts(first))
    for step, batches in enumerate(seen, first):
        ((name, index),) = batches.items()
        assert index == counts[name], step
        counts[name] += 1
    assert mixture.counts(first + 500) == counts


def test_far_steps_are_quick():
    mixture = Mixture({"a": 0.123, "b": 0.456}, "interleave", seed=0)
    start = time.perf_counter()
    mixture.at(10**9)
    assert time.perf_counter() - start < 0.5


def test_joint_takes_every_dataset_in_every_step():
    mixture = Mixture({"a": 1, "b": 5}, "joint", seed=0)
    assert mixture.at(7) == {"a": 7, "b": 7} == mixture.counts(7)


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_impossible_weights_are_refused_by_name(weight):
    with pytest.raises(ValueError, match="dataset 'b' must be above 0"):
        Mixture({"a": 1, "b": weight}, "interleave", seed=0)


def test_unknown_plan_and_empty_mixture_are_refused():
    with pytest.raises(ValueError, match="plan 'alternate' is not one of interleave, joint"):
        Mixture({"a": 1}, "alternate", seed=0)
    with pytest.raises(ValueError, match="at least one dataset"):
        Mixture({}, "interleave", seed=0)


TEXTS = {"a": "70:1, 150:0", "b": "150:3.5, 151:1", "c": "0:0, 70:2"}
SCHEDULES = {name: parse_schedule(text) for name, text in TEXTS.items()}
SCHEDULED = Mixture({"a": 3, "b": 2, "c": 1}, "interleave", 5, SCHEDULES)


def test_weights_hold_from_their_step_on():
    by_phase = [SCHEDULED.weights_at(step) for step in (0, 69, 70, 149, 150, 151, 10**6)]
    assert by_phase == [
        *[{"a": 3, "b": 2, "c": 0}] * 2, *[{"a": 1, "b": 2, "c": 2}] * 2,
        {"a": 0, "b": 3.5, "c": 2}, *[{"a": 0, "b": 1, "c": 2}] * 2,
    ]  # fmt: skip


def test_each_phase_has_its_exact_shares():
    """70 steps of 3 : 2, 80 of 1 : 2 : 2, one of 3.5 : 2, then 1 : 2."""
    assert SCHEDULED.counts(70) == {"a": 42, "b": 28, "c": 0}
    assert SCHEDULED.counts(150) == {"a": 42 + 16, "b": 28 + 32, "c": 32}
    assert SCHEDULED.counts(151) == {"a": 58, "b": 61, "c": 32}
    assert SCHEDULED.counts(151 + 300) == {"a": 58, "b": 161, "c": 232}


def test_ordinals_count_on_over_the_phases_from_any_step():
    counts = collections.Counter()
    for step in range(200):
        assert SCHEDULED.counts(step) == {name: counts[name] for name in "abc"}
        ((name, ordinal),) = SCHEDULED.at(step).items()
        assert ordinal == counts[name]
        counts[name] += 1


@pytest.mark.parametrize(
    ("weights", "end"),
    [
        *(((0.61803, 0.27183, 0.11014, 0.0001), end) for end in (1, 3, 7, 999, 1000, 1001, 1999, 2345)),
        # With one step more than a whole block, the largest remainder takes a step back from a dataset.
        ((0.72988, 0.07047, 0.68255), 1001),
        ((0.61594, 0.19856, 0.61228, 0.20653, 0.30939), 1002),
    ],
)
def test_a_phase_of_any_length_ends_on_its_shares(weights, end):
    weights = dict(zip("abcde", weights, strict=False))
    mixture = Mixture(weights, "interleave", 0, {"a": ((end, 1.0),)})
    counts = mixture.counts(end)
    assert sum(counts.values()) == end
    assert all(abs(counts[name] - end * weight / sum(weights.values())) < 1 for name, weight in weights.items())
    seen = collections.Counter(next(iter(mixture.at(step))) for step in range(max(0, end - 400), end))
    before = mixture.counts(max(0, end - 400))
    assert seen == {name: counts[name] - before[name] for name in weights if counts[name] > before[name]}


def test_a_later_change_leaves_the_earlier_steps_alone():
    """A run may be given a schedule while it trains, if it stands in the first phase's whole blocks."""
    plain, later = (Mixture({"a": 3, "b": 2}, "interleave", 1, schedules) for schedules in ({}, {"a": ((100, 1.0),)}))
    assert [plain.at(step) for step in range(95)] == [later.at(step) for step in range(95)]


def test_phases_are_shuffled_unlike_each_other():
    mixture = Mixture({"a": 9, "b": 8}, "interleave", 0, {"a": ((17, 8.0),), "b": ((17, 9.0),)})
    order = "".join(next(iter(mixture.at(step))) for step in range(34))
    assert order[:17].translate(str.maketrans("ab", "ba")) != order[17:]


def test_joint_has_no_phases():
    assert Mixture({"a": 1, "b": 5}, "joint", 0, SCHEDULES | {"a": ((3, 0.0),)}).at(7) == {"a": 7, "b": 7}


@pytest.mark.parametrize("text", ["5:1, 5:2", "7:1, 5:2", f"{2**31}:1", "5", "a:1", "5:-1", "5:nan"])
def test_impossible_schedules_are_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse_schedule(text)


def test_a_phase_without_any_dataset_is_refused():
    with pytest.raises(ValueError, match="from step 50 on, all datasets have weight 0"):
        Mixture({"a": 1, "b": 1}, "interleave", 0, {"a": ((10, 0.0),), "b": ((50, 0.0), (60, 1.0))})


def test_of_reads_configs_and_old_checkpoints():
    datasets = {"a": {"weight": 3.0}, "b": {"weight": 2.0, "weight_schedule": " 150:3.5,151:1 "}}
    assert Mixture.of(datasets, "interleave", 1).schedules == {"b": ((150, 3.5), (151, 1.0))}
