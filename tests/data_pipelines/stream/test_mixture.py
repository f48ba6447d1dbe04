import collections
import time

import pytest

from data_pipelines.stream.mixture import Mixture


def test_golden_plan_never_changes():
    mixture = Mixture({"k": 2, "s": 1, "i": 1}, "interleave", seed=3)
    assert "".join(name for step in range(12) for name in mixture.at(step)) == "ksikikskskik"


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
