"""The result of a plan, and its printed form: one table, each program, and a legend."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from cover_jax.parallel import chips
from cover_jax.plan import topologies
from cover_jax.plan.step_time import GRID_STEP_OVERHEAD_US, StepTime
from data_pipelines.output import text_tables


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program(StepTime):
    """One compiled step: memory of a device in GiB, and its predicted time.

    Attributes:
        datasets: the datasets of one call.
        counts_for: all datasets whose steps are assumed to cost the same.
        share: share of all steps.
        parameters_gib, optimizer_gib: computed from shapes and shardings.
        activations_gib, peak_gib: from the compiler. The peak includes the others. Of a refused program: its demand.
        fits: whether the compiler accepted the program.
        host_mib: what the host sends to the device per step: its part of the batches.
        tflop: operations of the step per device, computed from the model.
        compile_s: time of the compilation.
    """

    datasets: tuple[str, ...]
    counts_for: tuple[str, ...]
    share: float
    parameters_gib: float
    optimizer_gib: float
    activations_gib: float
    peak_gib: float
    fits: bool
    host_mib: float = 0.0
    tflop: float = 0.0
    compile_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """A config on one topology: its programs, and the mean step weighted by their shares (units as in `Program`).

    Attributes:
        chips: their number. Memory, operations and batches per device: see `devices`.
        devices: JAX devices: chips, or two per TPU7x chip.
        hbm_gib: memory of a device.
        step_ms: predicted time of the mean step: asynchronous transfers between chips hide behind computation.
        all_hidden_ms, none_hidden_ms: the same if all transfers hide, and if none does.
        mfu, mfu_all_hidden, mfu_none_hidden: needed operations divided by the devices' peak operations in these times.
        clips_per_s: examples per second of all datasets, over all devices, at step_ms.
        days: time for config.steps steps of step_ms, without evaluation and input wait.
    """

    topology: str
    mesh: dict[str, int]
    chips: int
    devices: int
    batch_sizes: dict[str, int]
    hbm_gib: float
    programs: tuple[Program, ...]
    evaluations: tuple[Program, ...]
    fits: bool
    advice: str
    step_ms: float = 0.0
    all_hidden_ms: float = 0.0
    none_hidden_ms: float = 0.0
    mfu: float = 0.0
    mfu_all_hidden: float = 0.0
    mfu_none_hidden: float = 0.0
    clips_per_s: float = 0.0
    days: float = 0.0


def mean_step(config: ConfigDict, programs: Sequence[Program], chip: chips.Chip) -> dict[str, Any]:
    """Time, MFU and rates of the mean step, weighted by the shares of the programs: fields of `Plan`."""
    all_hidden_ms = sum(program.share * program.all_hidden_ms for program in programs)
    step_ms = sum(program.share * program.step_ms for program in programs)
    none_hidden_ms = sum(program.share * program.none_hidden_ms for program in programs)
    tflop = sum(program.share * program.tflop for program in programs)
    at_peak_ms = 1e3 * tflop * chip.devices / chip.peak_tflops
    examples = sum(p.share * sum(config.datasets[name].batch_size for name in p.datasets) for p in programs)
    return dict(
        all_hidden_ms=all_hidden_ms,
        step_ms=step_ms,
        none_hidden_ms=none_hidden_ms,
        mfu_all_hidden=at_peak_ms / all_hidden_ms,
        mfu=at_peak_ms / step_ms,
        mfu_none_hidden=at_peak_ms / none_hidden_ms,
        clips_per_s=examples / (step_ms / 1e3),
        days=config.steps * step_ms / 1e3 / 86_400,
    )


COLUMNS = (
    "topology", "mesh", "per device", "parameters", "optimizer", "activations", "peak", "host", "matmuls", "kernels",
    "elementwise", "transfers", "step", "MFU", "examples/s", "days",
)  # fmt: skip


def table(plans: list[Plan]) -> str:
    """All plans as one Markdown table, with one row per plan."""
    return text_tables.markdown_table(COLUMNS, [row(plan) for plan in plans], left=2)


def row(plan: Plan) -> tuple[str, ...]:
    """A plan's cells of COLUMNS."""
    largest = max(plan.programs, key=lambda program: program.peak_gib)
    of = lambda part: sum(p.share * getattr(p, part) for p in plan.programs)  # noqa: E731
    per_device = {size / plan.devices for size in plan.batch_sizes.values()}
    memory = (
        "x".join(map(str, plan.mesh.values())),
        " or ".join(f"{size:g}" for size in sorted(per_device)),
        f"{largest.parameters_gib:.2f}",
        f"{largest.optimizer_gib:.2f}",
        f"{largest.activations_gib:.1f}",
        f"{largest.peak_gib:.1f} of {plan.hbm_gib:g}",
    )
    if not plan.fits:
        return (plan.topology, *memory, *["does not fit"] * 9)
    kernels_ms, grid_steps_ms = of("kernels_ms"), of("grid_steps_ms")
    return (
        plan.topology,
        *memory,
        f"{of('host_mib'):.1f}",
        f"{of('matmuls_ms'):.0f}",
        f"{kernels_ms:.0f} to {kernels_ms + grid_steps_ms:.0f}" if grid_steps_ms else f"{kernels_ms:.0f}",
        f"{of('elementwise_ms'):.0f}",
        f"{of('async_collectives_ms'):.0f} + {of('sync_collectives_ms'):.0f}",
        f"{plan.step_ms:.0f}",
        mfu_cell((plan.mfu_all_hidden, plan.mfu, plan.mfu_none_hidden)),
        f"{plan.clips_per_s:,.0f}",
        f"{plan.days:.1f}",
    )


def mfu_cell(mfus: Sequence[float]) -> str:
    """MFUs, 0..1, as one cell."""
    return " / ".join(f"{100 * mfu:.1f}" for mfu in mfus) + " %"


def report(config: ConfigDict, plans: list[Plan]) -> str:
    """The table, its legend, each program, and what to change if a program does not fit."""
    lines = [table(plans), "", *_LEGEND, ""]
    for plan in plans:
        lines.append(f"{plan.topology}, mesh {'x'.join(map(str, plan.mesh.values()))}:")
        lines += [_program_line(plan, program, "training step") for program in plan.programs]
        lines += [_program_line(plan, program, "evaluation step") for program in plan.evaluations]
        lines.append(_mean_line(config, plan) if plan.fits else f"  does not fit. {plan.advice}")
    return "\n".join(lines)


_LEGEND = (
    "Units: GiB per device; host: MiB that the host sends to a device per step; ms of the mean step. A device is a",
    "chip, or half of a TPU7x chip. per device: examples of one dataset on one device.",
    "Predicted by the compiler, nothing ran: activations, peak, matmuls, kernels, elementwise. Rankings are more",
    "reliable than absolute values (error 25 %). Computed: parameters, optimizer, host, operations; from these and the",
    "predictions: step, MFU, examples/s, days. Transfers between chips are estimated: bytes over the bandwidth of a",
    "ring along one axis of the torus; asynchronous + synchronous. Asynchronous ones can hide behind computation: the",
    "step assumes so. The three MFUs: all transfers hidden / the asynchronous ones hidden / none hidden.",
    f"kernels: the upper end adds {GRID_STEP_OVERHEAD_US[1]} us per grid step (assumed; no published value). The step",
    "has the lower end. Not included: evaluation, input wait, start-up.",
)


def _mean_line(config: ConfigDict, plan: Plan) -> str:
    grid_steps_ms = sum(program.share * program.grid_steps_ms for program in plan.programs)
    host_gb_s = sum(p.share * p.host_mib for p in plan.programs) * (1 << 20) / 1e9 / (plan.step_ms / 1e3)
    upper = f" ({plan.mfu * plan.step_ms / (plan.step_ms + grid_steps_ms):.1%} with the kernels' upper end)"
    return (
        f"  MFU {plan.mfu_all_hidden:.1%} if all transfers between chips hide behind computation, {plan.mfu:.1%} if "
        f"the asynchronous ones do{upper if grid_steps_ms else ''}, {plan.mfu_none_hidden:.1%} if none does; the host "
        f"sends {host_gb_s:.2f} GB/s to each device; {config.steps} steps take {plan.days:.1f} days"
    )


def _program_line(plan: Plan, program: Program, what: str) -> str:
    standing = f" (for {', '.join(program.counts_for)})" if program.counts_for != program.datasets else ""
    memory = f"peak {program.peak_gib:.1f} of {plan.hbm_gib:g} GiB"
    if not program.fits:
        return f"  {what} on {', '.join(program.datasets)}{standing}: {memory}"
    mfu = program.mfus(program.tflop, topologies.parse(plan.topology)[0])[1]
    return (
        f"  {what} on {', '.join(program.datasets)}{standing}, {program.share:.0%}: {memory}, "
        f"{program.step_ms:.0f} ms{f', MFU {mfu:.1%}' if mfu else ''}; compiled in {program.compile_s:.0f} s"
    )
