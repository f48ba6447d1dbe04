"""Compiles every program of a run side by side. Checks their memory, and predicts their time on TPUs."""

import dataclasses
import time
from collections.abc import Collection

import jax

from cover_jax.errors import ConfigError
from cover_jax.fault_tolerance import process
from cover_jax.parallel import chips, compilation
from cover_jax.plan import compiler, step_time
from cover_jax.plan.table import Program
from cover_jax.rehearsal import memory
from cover_jax.rehearsal.findings import Findings
from cover_jax.training.run import Run


@dataclasses.dataclass(frozen=True)
class Programs:
    """The programs that were compiled and fit into memory.

    Attributes:
        steps: the sets of datasets that training steps can be taken on.
        evaluations: the datasets that can be evaluated.
    """

    steps: list[tuple[str, ...]]
    evaluations: list[str]

    def without(self, datasets: Collection[str]) -> "Programs":
        """Those that need none of these datasets."""
        steps = [names for names in self.steps if not set(names) & set(datasets)]
        return Programs(steps, [name for name in self.evaluations if name not in datasets])


def compile_programs(run: Run, findings: Findings) -> Programs:
    """Compiles every training and evaluation step. The setup's jitted steps keep them."""
    wanted = {("train", *names): names for names in run.setup.step_datasets}
    wanted |= {("evaluation", name): (name,) for name in run.setup.eval_steps}

    def tell(left: int) -> None:
        process.enter_phase("compile", f"{left} of {len(wanted)} programs left")

    tell(len(wanted))
    start, lowered = time.perf_counter(), {}
    for (kind, *names), datasets in wanted.items():
        with findings.collect(f"{kind} step on {', '.join(names)}: "):
            lowered[kind, *names] = (
                run.setup.lower_train_step(datasets) if kind == "train" else run.setup.lower_eval_step(*datasets)
            )
    fit = set()
    for (kind, *names), future in compilation.compile_side_by_side(lowered, tell).items():
        with findings.collect(f"{kind} step on {', '.join(names)}: ") as attempt:
            _check(run, kind, tuple(names), future.exception() or future.result(), findings)
        if not attempt.failed:
            fit.add("/".join((kind, *names)))
    findings.measured["compile_s"] = findings.measured["stage/compilation_s"] = time.perf_counter() - start
    misfit = findings.agree_on({"/".join(key) for key in wanted} - fit)
    return Programs(
        steps=[names for names in run.setup.step_datasets if "/".join(("train", *names)) not in misfit],
        evaluations=[name for name in run.setup.eval_steps if f"evaluation/{name}" not in misfit],
    )


def _check(
    run: Run, kind: str, names: tuple[str, ...], compiled: jax.stages.Compiled | BaseException, findings: Findings
) -> None:
    """Notes memory and predicted time of a program.

    Raises:
        ConfigError: it does not fit. The message says what to change.
        The compiler's error, if it refused the program for another reason.
    """
    device, key = jax.local_devices()[0], f"{'+'.join(names)}/{kind}"
    limit_gib = memory.device_limit_gib(device)
    needed = compiler.program_memory(run.setup.state, compiled)
    findings.facts["device_limit_gib"] = limit_gib
    findings.facts[f"{key}_gib"] = needed["peak_gib"]
    if not needed["fits"] or needed["peak_gib"] > limit_gib:
        program = Program(datasets=names, counts_for=names, share=1.0, **needed)
        raise ConfigError(compiler.advice(run.config, program, run.setup.mesh, limit_gib))
    if (chip := chips.find(device)) and isinstance(compiled, jax.stages.Compiled):
        findings.facts[f"{key}_predicted_s"] = step_time.predict(compiled.as_text() or "", chip).step_ms / 1e3
