"""step -> the datasets it trains on, and the index of the batch within each: a pure function of (weights, plan, seed).

`interleave` divides the steps into blocks. A block holds the datasets in proportion to their weights, shuffled by
Philox keyed by (seed, block). If the weights are small whole numbers, or decimals that reduce to small whole numbers,
a block is exactly one set of them (2 : 1 : 1 makes blocks of 4). Otherwise the block length is fixed. The largest
remainder method then gives each dataset a whole number of steps up to the end of each block, in exact arithmetic. So
the shares never drift: at the end of a block each dataset is less than one step from its exact share, even at step 1e9.

Weights may change at given steps. The steps from one change to the next are a phase. A phase has blocks of its own. Its
last block is longer and ends with it. So at the end of a phase, too, each dataset is less than one step from its share.
"""

import bisect
import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

PLANS = ("interleave", "joint")
LONG_BLOCK_STEPS = 1000  # for weights that do not fit a shorter block; a dataset that is rarer needs a longer block


WeightSchedule = tuple[tuple[int, float], ...]  # (first step, weight from there on), in the order of the steps


def parse_schedule(text: str) -> WeightSchedule:
    """The schedule of a text such as "90000:0.5, 120000:0", STEP:WEIGHT each.

    Raises:
        ValueError: the text is no such list, or its steps do not rise.
    """
    schedule = []
    for part in filter(None, map(str.strip, text.split(","))):
        step, _, weight = part.partition(":")
        schedule.append((int(step), float(weight)))
    steps = [step for step, _ in schedule]
    if steps != sorted(set(steps)) or any(not 0 <= step < 2**31 for step in steps):
        raise ValueError(f"{text!r}: the steps must be from 0 to 2**31 - 1, and rise")
    if not all(math.isfinite(weight) and weight >= 0 for _, weight in schedule):
        raise ValueError(f"{text!r}: the weights must be 0 or greater")
    return tuple(schedule)


def clip_source(datasets: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """The dataset whose batches a dataset uses: itself, or the one that it names as `same_clips_as`."""
    named: str = datasets[name].get("same_clips_as", "")  # old checkpoints do not have the key
    return named if named in datasets else name


def by_clip_source(datasets: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Dataset whose batches are read -> the datasets that use them, itself first, in the order of `datasets`."""
    found: dict[str, list[str]] = {}
    for name in datasets:
        if clip_source(datasets, name) == name:
            found[name] = [name]
    for name in datasets:
        if (source := clip_source(datasets, name)) != name:
            found[source].append(name)
    return found


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The step plan of a run.

    Attributes:
        weights: dataset name -> share of the steps, relative to the others. They are checked, but "joint" ignores them.
        plan: "interleave" (one dataset per step) or "joint" (every dataset in every step).
        seed: the run's seed.
        schedules: dataset name -> its weights from given steps of the plan on; before the first of them, and for other
            datasets, `weights` hold. Weight 0: no steps. "joint" ignores them, too.
    """

    weights: Mapping[str, float]
    plan: str
    seed: int
    schedules: Mapping[str, WeightSchedule] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, datasets: Mapping[str, Mapping[str, Any]], plan: str, seed: int) -> "Mixture":
        """The step plan of config.datasets, config.plan and config.seed; also as they stand in old checkpoints."""
        weights = {name: dataset["weight"] for name, dataset in datasets.items()}
        texts = {name: dataset.get("weight_schedule", "") for name, dataset in datasets.items()}
        return cls(weights, plan, seed, {name: parse_schedule(text) for name, text in texts.items() if text})

    def __post_init__(self) -> None:
        if self.plan not in PLANS:
            raise ValueError(f"plan {self.plan!r} is not one of {', '.join(PLANS)}")
        if not self.weights:
            raise ValueError("a mixture needs at least one dataset")
        for name, weight in self.weights.items():
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(f"weight {weight!r} of dataset {name!r} must be above 0; leave a dataset out instead")
        for start in self.starts:
            if not any(self.weights_at(start).values()):
                raise ValueError(f"from step {start} on, all datasets have weight 0; one must have more")

    @property
    def starts(self) -> list[int]:
        """The first step of each phase, in order: 0, and each step at which a weight changes."""
        return sorted({0} | {step for schedule in self.schedules.values() for step, _ in schedule})

    def weights_at(self, step: int) -> dict[str, float]:
        """Dataset name -> its weight at a step of the plan."""
        begun = {
            name: [weight for start, weight in self.schedules.get(name, ()) if start <= step] for name in self.weights
        }
        return {name: begun[name][-1] if begun[name] else weight for name, weight in self.weights.items()}

    def at(self, step: int) -> dict[str, int]:
        """Dataset name -> index of the batch that `step` consumes, for each dataset of that step."""
        if self.plan == "joint":
            return self.counts(step)
        number = self._phase_of(step)
        phase = self._phases[number]
        dataset, before = phase.at(step - phase.start)
        return {self._names[dataset]: self._counts_before[number][dataset] + before}

    def counts(self, step: int) -> dict[str, int]:
        """Dataset name -> number of its batches that are consumed before `step`."""
        if self.plan == "joint":
            return dict.fromkeys(self.weights, step)
        number = self._phase_of(step)
        phase = self._phases[number]
        counts = zip(self._counts_before[number], phase.counts(step - phase.start), strict=True)
        return dict(zip(self._names, map(sum, counts), strict=True))

    def _phase_of(self, step: int) -> int:
        return bisect.bisect_right(self._starts, step) - 1

    @functools.cached_property
    def _names(self) -> list[str]:
        return list(self.weights)

    @functools.cached_property
    def _starts(self) -> list[int]:
        return self.starts

    @functools.cached_property
    def _counts_before(self) -> list[list[int]]:
        """For each phase, the number of batches of each dataset before it."""
        found = [[0] * len(self.weights)]
        for phase in self._phases[:-1]:
            found.append(np.add(found[-1], phase.counts(phase.end - phase.start)).tolist())
        return found

    @functools.cached_property
    def _phases(self) -> list["_Phase"]:
        starts = self.starts
        ends = [*starts[1:], sys.maxsize]
        return [
            _Phase(start, end, tuple(_whole(self.weights_at(start).values())), self.seed)
            for start, end in zip(starts, ends, strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class _Phase:
    """Steps of "interleave" with the same weights; steps are counted from the first of them.

    Attributes:
        start, end: its first step in the plan, and the step after its last.
        shares: of each dataset, whole numbers without a common factor; 0: no steps.
        seed: the run's seed.
    """

    start: int
    end: int
    shares: tuple[int, ...]
    seed: int

    def at(self, step: int) -> tuple[int, int]:
        """The dataset of `step`, and the number of its steps before: both are indices."""
        number = self._block_of(step)
        block = self._block(number)
        offset = step - self._first(number)
        dataset = int(block.datasets[offset])
        return dataset, block.before[dataset] + int(block.ordinals[offset])

    def counts(self, step: int) -> list[int]:
        """For each dataset, the number of its steps before `step`."""
        number = self._block_of(step)
        block = self._block(number)
        part = np.bincount(block.datasets[: step - self._first(number)], minlength=len(self.shares))
        return [count + int(more) for count, more in zip(block.before, part, strict=True)]

    @property
    def _steps(self) -> int:
        return self.end - self.start

    @functools.cached_property
    def _block_steps(self) -> int:
        """Length of a block, but for the last. Each dataset with a weight has at least one step in it."""
        total = sum(self.shares)
        return min(total, max(LONG_BLOCK_STEPS, math.ceil(total / min(filter(None, self.shares)))))

    def _block_of(self, step: int) -> int:
        """Which block has `step`. The steps at the end that fill no block belong to the last one."""
        return min(step // self._block_steps, max(self._steps // self._block_steps - 1, 0))

    def _first(self, block: int) -> int:
        """The first step of a block; of the block after the last one: the number of steps."""
        is_after_last = block > self._block_of(self._steps - 1)
        return self._steps if is_after_last else block * self._block_steps

    @functools.cached_property
    def _block(self) -> Callable[[int], "_Block"]:
        """Index of a block -> the block. The last two are kept: a step needs one, the next step mostly the same."""
        return functools.lru_cache(maxsize=2)(self._make_block)

    def _make_block(self, block: int) -> "_Block":
        before, after = (_apportion(self._first(i), self.shares) for i in (block, block + 1))
        counts = np.subtract(after, before)  # not negative: the block is long enough, or the only one
        steps = np.repeat(np.arange(len(self.shares)), counts)
        # Raw Philox words and a stable sort give the same result in every NumPy version; Generator.permutation may not.
        # No two phases share a key: a phase has fewer than 2**32 blocks.
        words = np.random.Philox(key=[self.seed % 2**64, (self.start << 32) + block]).random_raw(len(steps))
        datasets = steps[np.argsort(words, kind="stable")]
        ordinals = np.empty(len(steps), np.int64)
        ordinals[np.argsort(datasets, kind="stable")] = np.concatenate([np.arange(count) for count in counts])
        return _Block(before, datasets, ordinals)


class _Block(NamedTuple):
    """The steps of a block.

    Attributes:
        before: per dataset: number of its steps before the block.
        datasets: [steps of the block] the dataset of each step.
        ordinals: [steps of the block] number of steps of the same dataset before it in the block.
    """

    before: list[int]
    datasets: np.ndarray
    ordinals: np.ndarray


@dataclasses.dataclass(frozen=True)
class BatchSchedule:
    """Which batches the steps of a run consume, from a given step on: where the run stands in its step plan.

    A run that never departed from its plan is at plan step `step`, with the batches `mix.counts(step)`. A run that
    skipped batches is further along in the plan. A run whose mix was changed continues with each dataset's next batch.

    Attributes:
        mix: the step plan.
        step: a step of the run.
        plan_step: the step of the plan that belongs to `step`.
        ordinals: dataset name -> index of its next batch at `step`.
    """

    mix: Mixture
    step: int
    plan_step: int
    ordinals: Mapping[str, int]

    def plan_step_at(self, step: int) -> int:
        """The step of the plan that belongs to `step` of the run."""
        return self.plan_step + step - self.step

    def at(self, step: int) -> dict[str, int]:
        """Dataset name -> index of the batch that `step` of the run consumes."""
        return self._shifted(self.mix.at(self.plan_step_at(step)))

    def counts(self, step: int) -> dict[str, int]:
        """Dataset name -> index of its next batch just before `step` of the run."""
        return self._shifted(self.mix.counts(self.plan_step_at(step)))

    def _shifted(self, counts: dict[str, int]) -> dict[str, int]:
        return {name: self.ordinals[name] + count - self._entered[name] for name, count in counts.items()}

    @functools.cached_property
    def _entered(self) -> dict[str, int]:
        return self.mix.counts(self.plan_step)


def _whole(weights: Iterable[float]) -> list[int]:
    """The weights as whole numbers without a common factor, exactly equal to their decimal notation."""
    exact = [Fraction(repr(float(weight))) for weight in weights]
    scale = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    common = math.gcd(*whole)
    return [share // common for share in whole]


def _apportion(steps: int, shares: Sequence[int]) -> list[int]:
    """Whole numbers that sum to `steps`, in proportion to `shares`: largest remainder, and the first wins a tie."""
    total = sum(shares)
    counts = [steps * share // total for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: -(steps * shares[i] % total))
    for i in by_remainder[: steps - sum(counts)]:
        counts[i] += 1
    return counts
