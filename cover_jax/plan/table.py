"""The result of a plan, and its printed form: one table, each program, and a legend."""

import dataclasses

from ml_collections import ConfigDict

from cover_jax.plan import topologies
from data_pipelines import text_tables


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled step: memory of a chip in GiB, time in ms.

    Attributes:
        datasets: the datasets of one call.
        counts_for: all datasets whose steps are assumed to cost the same.
        share: share of all steps.
        parameters_gib, optimizer_gib: computed from shapes and shardings.
        activations_gib, peak_gib: from the compiler. The peak includes the others. Of a refused program: its demand.
        fits: whether the compiler accepted the program.
        matmuls_ms, kernels_ms, elementwise_ms: predicted by the compiler. Kernels are Pallas kernels.
        collectives_ms: estimated from bytes and link bandwidth. The compiler overlaps much of it with other work.
        tflop: operations of the step per chip, computed from the model.
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
    matmuls_ms: float = 0.0
    kernels_ms: float = 0.0
    elementwise_ms: float = 0.0
    collectives_ms: float = 0.0
    tflop: float = 0.0
    compile_s: float = 0.0

    @property
    def compute_ms(self) -> float:
        """The time of everything except collectives."""
        return self.matmuls_ms + self.kernels_ms + self.elementwise_ms


@dataclasses.dataclass(frozen=True)
class Plan:
    """A config on one topology: its programs, and the mean step weighted by their shares (units as in `Program`).

    Attributes:
        step_ms: predicted time of the mean step if all collectives overlap with computation.
        exposed_step_ms: the same if no collective overlaps. The real time is between the two.
        mfu: needed operations divided by the chips' peak operations in step_ms; mfu_exposed: in exposed_step_ms.
        clips_per_s: examples per second of all datasets, over all chips, at step_ms.
        days: time for config.steps steps of step_ms, without evaluation and input wait.
    """

    topology: str
    mesh: dict[str, int]
    chips: int
    batch_sizes: dict[str, int]
    hbm_gib: float
    programs: tuple[Program, ...]
    evaluations: tuple[Program, ...]
    fits: bool
    advice: str
    step_ms: float = 0.0
    exposed_step_ms: float = 0.0
    mfu: float = 0.0
    mfu_exposed: float = 0.0
    clips_per_s: float = 0.0
    days: float = 0.0


def table(plans: list[Plan]) -> str:
    """All plans as one Markdown table, with one row per plan."""
    head = ("topology", "mesh", "per chip", "parameters", "optimizer", "activations", "peak", "matmuls", "kernels",
            "elementwise", "collectives", "step", "MFU", "examples/s", "days")  # fmt: skip
    return text_tables.markdown_table(head, [_row(plan) for plan in plans], left=2)


def _row(plan: Plan) -> tuple[str, ...]:
    largest = max(plan.programs, key=lambda program: program.peak_gib)
    of = lambda part: sum(p.share * getattr(p, part) for p in plan.programs)  # noqa: E731
    per_chip = {size / plan.chips for size in plan.batch_sizes.values()}
    memory = (
        "x".join(map(str, plan.mesh.values())),
        " or ".join(f"{size:g}" for size in sorted(per_chip)),
        f"{largest.parameters_gib:.2f}",
        f"{largest.optimizer_gib:.2f}",
        f"{largest.activations_gib:.1f}",
        f"{largest.peak_gib:.1f} of {plan.hbm_gib:g}",
    )
    if not plan.fits:
        return (plan.topology, *memory, *["does not fit"] * 8)
    times = (of("matmuls_ms"), of("kernels_ms"), of("elementwise_ms"), of("collectives_ms"), plan.step_ms)
    return (
        plan.topology, *memory, *(f"{ms:.0f}" for ms in times), f"{plan.mfu:.1%}", f"{plan.clips_per_s:,.0f}",
        f"{plan.days:.1f}",
    )  # fmt: skip


def report(config: ConfigDict, plans: list[Plan]) -> str:
    """The table, its legend, each program, and what to change if a program does not fit."""
    lines = [table(plans), "", *_LEGEND, ""]
    for plan in plans:
        lines.append(f"{plan.topology}, mesh {'x'.join(map(str, plan.mesh.values()))}:")
        lines += [_program_line(plan, program, "training step") for program in plan.programs]
        lines += [_program_line(plan, program, "evaluation step") for program in plan.evaluations]
        if plan.fits:
            lines.append(
                f"  MFU {plan.mfu:.1%} if all collectives overlap with computation, {plan.mfu_exposed:.1%} if none do; "
                f"{config.steps} steps take {plan.days:.1f} days"
            )
        else:
            lines.append(f"  does not fit. {plan.advice}")
    return "\n".join(lines)


_LEGEND = (
    "Units: GiB per chip; ms of the mean step. per chip: examples of one dataset on one chip.",
    "Predicted by the compiler, nothing ran: activations, peak, matmuls, kernels, elementwise. Rankings are more",
    "reliable than absolute values (error 25 %). Computed: parameters, optimizer, operations; from these and the",
    "predictions: step, MFU, examples/s, days. Collectives are estimated: bytes over the bandwidth of a ring along",
    "one axis of the torus. They are not in the step's time, because the compiler overlaps much of them with",
    "computation. Not included: evaluation, input wait, start-up.",
)


def _program_line(plan: Plan, program: Program, what: str) -> str:
    standing = f" (for {', '.join(program.counts_for)})" if program.counts_for != program.datasets else ""
    memory = f"peak {program.peak_gib:.1f} of {plan.hbm_gib:g} GiB"
    if not program.fits:
        return f"  {what} on {', '.join(program.datasets)}{standing}: {memory}"
    peak = topologies.parse(plan.topology)[0].peak_tflops
    mfu = f", MFU {program.tflop / (program.compute_ms / 1e3) / peak:.1%}" if program.tflop else ""
    return (
        f"  {what} on {', '.join(program.datasets)}{standing}, {program.share:.0%}: {memory}, "
        f"{program.compute_ms:.0f} ms{mfu}; compiled in {program.compile_s:.0f} s"
    )
