"""Predicts the time of a step on a TPU from the cost of its program (hlo_cost) and the rates of a chip."""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from cover_jax.parallel.chips import Chip
from cover_jax.plan.hlo_cost import Work
from cover_jax.plan.table import Program

_FIELDS = {
    "matmul": "matmuls_ms", "kernel": "kernels_ms", "elementwise": "elementwise_ms", "collective": "collectives_ms",
}  # fmt: skip


def program_ms(work: Sequence[Work], bundles: Mapping[tuple[str, ...], int], chip: Chip) -> dict[str, float]:
    """Milliseconds per call of a program, by kind of work: fields of `Program`.

    Args:
        work: of the program.
        bundles: `Work.program` -> bundles per grid step of a kernel (`hlo_cost.kernel_bundles`).
        chip: the chip that runs it.
    """
    seconds = dict.fromkeys(_FIELDS, 0.0)
    for one in work:
        seconds[one.kind] += one.trips * _seconds(one, bundles, chip)
    return {_FIELDS[kind]: 1e3 * total for kind, total in seconds.items()}


def mean_step(config: ConfigDict, programs: Sequence[Program], chip: Chip) -> dict[str, float]:
    """Time, MFU and rates of the mean step, weighted by the shares of the programs: fields of `Plan`."""
    step_ms = sum(program.share * program.compute_ms for program in programs)
    exposed_ms = step_ms + sum(program.share * program.collectives_ms for program in programs)
    tflop = sum(program.share * program.tflop for program in programs)
    examples = sum(p.share * sum(config.datasets[name].batch_size for name in p.datasets) for p in programs)
    return dict(
        step_ms=step_ms,
        exposed_step_ms=exposed_ms,
        mfu=tflop / (step_ms / 1e3) / chip.peak_tflops,
        mfu_exposed=tflop / (exposed_ms / 1e3) / chip.peak_tflops,
        clips_per_s=examples / (step_ms / 1e3),
        days=config.steps * step_ms / 1e3 / 86_400,
    )


def _seconds(work: Work, bundles: Mapping[tuple[str, ...], int], chip: Chip) -> float:
    """Milliseconds per run of an instruction."""
    match work.kind:
        case "kernel":
            # The maximum of compute time (shared by the cores of a chip) and memory time.
            cycles = bundles[work.program] * work.grid_steps / chip.cores
            return max(cycles / chip.clock_hz, work.bytes / (chip.hbm_gbps * 1e9))
        case "collective":
            return work.bytes / chip.axis_bytes_s
        case _:
            return work.cycles / chip.clock_hz
