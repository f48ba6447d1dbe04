"""Predicts the time of a step on a TPU from the cost of its program (hlo_cost) and the rates of a chip.

`predict` takes the text of any compiled TPU program, of the plan or of a real run.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from cover_jax.parallel.chips import Chip
from cover_jax.plan import hlo_cost
from cover_jax.plan.hlo_cost import Work

# What a grid step of a Pallas kernel costs beyond its schedule: starting its copies and waiting for them. No published
# value was found. The range is this project's assumption; predicted times have the lower end.
GRID_STEP_OVERHEAD_US = (0.0, 0.35)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepTime:
    """Predicted milliseconds of one call of a program on a device.

    Attributes:
        matmuls_ms, elementwise_ms: from the compiler's estimates.
        kernels_ms: Pallas kernels, without any cost per grid step beyond their schedule.
        sync_collectives_ms: transfers between chips that nothing hides.
        async_collectives_ms: transfers between chips that can hide behind the chip's own work.
        grid_steps_ms: the largest cost of the kernels' grid steps beyond their schedule (GRID_STEP_OVERHEAD_US). It is
            not in the times below.
    """

    matmuls_ms: float = 0.0
    kernels_ms: float = 0.0
    elementwise_ms: float = 0.0
    sync_collectives_ms: float = 0.0
    async_collectives_ms: float = 0.0
    grid_steps_ms: float = 0.0

    @property
    def compute_ms(self) -> float:
        """Everything except transfers between chips."""
        return self.matmuls_ms + self.kernels_ms + self.elementwise_ms

    @property
    def all_hidden_ms(self) -> float:
        """If all transfers hide: never shorter than the transfers."""
        return max(self.compute_ms, self.sync_collectives_ms + self.async_collectives_ms)

    @property
    def step_ms(self) -> float:
        """If the asynchronous transfers hide, and the others do not: the prediction."""
        return max(self.compute_ms, self.async_collectives_ms) + self.sync_collectives_ms

    @property
    def none_hidden_ms(self) -> float:
        """If no transfer hides."""
        return self.compute_ms + self.sync_collectives_ms + self.async_collectives_ms

    def mfus(self, tflop: float, chip: Chip) -> tuple[float, float, float]:
        """MFU with all transfers hidden, with the asynchronous ones hidden, and with none hidden: 0..1.

        Args:
            tflop: 10^12 operations that the model needs per device and step (models/flops.py).
            chip: the chip that runs the step.
        """
        peak = chip.peak_tflops / chip.devices
        all_hidden, async_hidden, none_hidden = (
            tflop / (ms / 1e3) / peak if ms else 0.0 for ms in (self.all_hidden_ms, self.step_ms, self.none_hidden_ms)
        )
        return all_hidden, async_hidden, none_hidden


def predict(text: str, chip: Chip, bundles: Mapping[tuple[str, ...], int] | None = None) -> StepTime:
    """The time of a compiled TPU program.

    Args:
        text: `compiled.as_text()`.
        chip: the chip that runs it.
        bundles: as in `of_work`.

    Raises:
        UnknownCollectiveError: as in `hlo_cost.read`.
    """
    return of_work(hlo_cost.read(text), chip, bundles)


def of_work(work: Sequence[Work], chip: Chip, bundles: Mapping[tuple[str, ...], int] | None = None) -> StepTime:
    """The time of a program.

    Args:
        work: of the program.
        chip: the chip that runs it.
        bundles: `Work.program` -> bundles per grid step of a kernel (`hlo_cost.kernel_bundles`). None: they are not
            known, and the time of a kernel is that of its memory traffic, a lower bound.
    """
    ms: dict[str, float] = {}
    for one in work:
        field = _field(one)
        ms[field] = ms.get(field, 0.0) + 1e3 * one.trips * _seconds(one, bundles, chip)
    steps = sum(one.trips * one.grid_steps for one in work)
    return StepTime(**ms, grid_steps_ms=steps * GRID_STEP_OVERHEAD_US[1] / _cores(chip) / 1e3)


def _field(work: Work) -> str:
    if work.kind == "collective":
        return "async_collectives_ms" if work.is_async else "sync_collectives_ms"
    return {"matmul": "matmuls_ms", "kernel": "kernels_ms", "elementwise": "elementwise_ms"}[work.kind]


def _cores(chip: Chip) -> int:
    """TensorCores of a device."""
    return chip.cores // chip.devices


def _seconds(work: Work, bundles: Mapping[tuple[str, ...], int] | None, chip: Chip) -> float:
    """Seconds per run of an instruction."""
    match work.kind:
        case "kernel":
            # The maximum of compute time (shared by the cores of a device) and memory time.
            cycles = bundles[work.program] * work.grid_steps / _cores(chip) if bundles is not None else 0
            return max(cycles / chip.clock_hz, work.bytes / (chip.hbm_gbps * 1e9 / chip.devices))
        case "collective":
            return work.bytes / (chip.axis_bytes_s / chip.devices)
        case _:
            return work.cycles / chip.clock_hz
