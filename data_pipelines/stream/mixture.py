"""step -> the datasets it trains on, and the index of the batch within each: a pure function of (weights, plan, seed).

`interleave` divides the steps into blocks. A block holds the datasets in proportion to their weights, shuffled by
Philox keyed by (seed, block). If the weights are small whole numbers, or decimals that reduce to small whole numbers,
a block is exactly one set of them (2 : 1 : 1 makes blocks of 4). Otherwise the block length is fixed. The largest
remainder method then gives each dataset a whole number of steps up to the end of each block, in exact arithmetic. So
the shares never drift: at the end of a block each dataset is less than one step from its exact share, even at step 1e9.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np

PLANS = ("interleave", "joint")
LONG_BLOCK_STEPS = 1000  # for weights that do not fit a shorter block; a dataset that is rarer needs a longer block


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The step plan of a run.

    Attributes:
        weights: dataset name -> share of the steps, relative to the others. They are checked, but "joint" ignores them.
        plan: "interleave" (one dataset per step) or "joint" (every dataset in every step).
        seed: the run's seed.
    """

    weights: Mapping[str, float]
    plan: str
    seed: int

    def __post_init__(self) -> None:
        if self.plan not in PLANS:
            raise ValueError(f"plan {self.plan!r} is not one of {', '.join(PLANS)}")
        if not self.weights:
            raise ValueError("a mixture needs at least one dataset")
        for name, weight in self.weights.items():
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(f"weight {weight!r} of dataset {name!r} must be above 0; leave a dataset out instead")

    def at(self, step: int) -> dict[str, int]:
        """Dataset name -> index of the batch that `step` consumes, for each dataset of that step."""
        before = self.counts(step)
        return {name: before[name] for name in self._consumed(step)}

    def counts(self, step: int) -> dict[str, int]:
        """Dataset name -> number of its batches that are consumed before `step`."""
        if self.plan == "joint":
            return dict.fromkeys(self.weights, step)
        block, offset = divmod(step, self._block_steps)
        whole = _apportion(block * self._block_steps, self._shares)
        part = collections.Counter(self._block(block)[:offset])
        return {name: whole[i] + part[i] for i, name in enumerate(self.weights)}

    def _consumed(self, step: int) -> list[str]:
        names = list(self.weights)
        if self.plan == "joint":
            return names
        block, offset = divmod(step, self._block_steps)
        return [names[self._block(block)[offset]]]

    @property
    def _shares(self) -> list[int]:
        """The weights as whole numbers without a common factor, exactly equal to their decimal notation."""
        exact = [Fraction(repr(float(weight))) for weight in self.weights.values()]
        scale = math.lcm(*(weight.denominator for weight in exact))
        whole = [int(weight * scale) for weight in exact]
        return [share // math.gcd(*whole) for share in whole]

    @property
    def _block_steps(self) -> int:
        """Length of a block. Each dataset has at least one step in it."""
        total = sum(self._shares)
        return min(total, max(LONG_BLOCK_STEPS, math.ceil(total / min(self._shares))))

    def _block(self, block: int) -> list[int]:
        """Index of the dataset of each step of a block."""
        start = _apportion(block * self._block_steps, self._shares)
        end = _apportion((block + 1) * self._block_steps, self._shares)
        steps = np.repeat(np.arange(len(self.weights)), np.subtract(end, start))
        # Raw Philox words and a stable sort give the same result in every NumPy version; Generator.permutation may not.
        words = np.random.Philox(key=[self.seed % 2**64, block]).random_raw(len(steps))
        shuffled: list[int] = steps[np.argsort(words, kind="stable")].tolist()
        return shuffled


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


def _apportion(steps: int, shares: list[int]) -> list[int]:
    """Whole numbers that sum to `steps`, in proportion to `shares`: largest remainder, and the first wins a tie."""
    total = sum(shares)
    counts = [steps * share // total for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: -(steps * shares[i] % total))
    for i in by_remainder[: steps - sum(counts)]:
        counts[i] += 1
    return counts
