"""How long the rehearsal itself took besides compilation. Above the limit, it says which stage to shorten, and how."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cover_jax.rehearsal.findings import Findings, stages_s

LIMIT_S = 300.0  # this project's choice: a pod costs money meanwhile
COMPILATION = "compilation"  # the stage that does not count: nothing bounds it but config.timeouts.compile_s
OTHER = "other"  # outside of all stages: the scratch folder and its lease


@dataclasses.dataclass(frozen=True)
class Duration:
    """How long a rehearsal took, of the slowest host.

    Attributes:
        needed_s: the limit.
        found_s: seconds from its start to its table, without its stage of compilation.
        longest_stage: the stage that took longest, compilation aside; `OTHER` for the time outside of stages.
        longest_s: how long that stage took.
    """

    needed_s: float
    found_s: float
    longest_stage: str
    longest_s: float


def note(findings: Findings, since_start_s: float) -> None:
    """Adds to the measured figures how long this host's rehearsal took besides compilation.

    Args:
        findings: of this host.
        since_start_s: seconds since the rehearsal began.
    """
    compilation_s = stages_s(findings.measured).get(COMPILATION, 0.0)
    findings.measured["besides_compilation_s"] = since_start_s - compilation_s


def of(measured: Mapping[str, float]) -> Duration | None:
    """The duration, from the figures of `note`; None without them."""
    if "besides_compilation_s" not in measured:
        return None
    found_s = measured["besides_compilation_s"]
    stages = {name: seconds for name, seconds in stages_s(measured).items() if name != COMPILATION}
    stages[OTHER] = max(found_s - sum(stages.values()), 0.0)  # of several hosts, each stage is the slowest one's
    longest = max(stages, key=lambda name: stages[name])
    return Duration(LIMIT_S, found_s, longest, stages[longest])


def check(config: ConfigDict, measured: Mapping[str, float], findings: Findings) -> None:
    """Adds a warning if the rehearsal took longer than it should. The run itself would work.

    Args:
        config: of the run.
        measured: `Findings.worst`.
        findings: gets the warning.
    """
    duration = of(measured)
    if duration is None or duration.found_s <= duration.needed_s:
        return
    stage = duration.longest_stage
    findings.warn(
        f"the rehearsal took {duration.found_s:.0f} s besides compilation, more than {duration.needed_s:.0f}: the "
        f"longest stage is {stage.replace('_', ' ')}, {duration.longest_s:.0f} s; "
        f"{_remedy(stage, config, measured, findings.facts)}"
    )


def _remedy(stage: str, config: ConfigDict, measured: Mapping[str, float], facts: Mapping[str, Any]) -> str:
    near = "choose storage in the same region as the hosts"
    if stage == "checkpoint":
        taken = [f"{what} {measured[key]:.0f} s" for key, what in _CHECKPOINT.items() if key in measured]
        size = f"{facts['checkpoint_gib']:.3g} GiB: " if "checkpoint_gib" in facts else ""
        return f"the storage of --workdir is too slow ({size}{', '.join(taken) or 'not saved'}): {near}"
    if stage in ("steps", "evaluation"):
        kind, key = ("/step_s", "batch_size") if stage == "steps" else ("/eval_batch_s", "eval_batch_size")
        of_each = {name.removesuffix(kind): value for name, value in measured.items() if name.endswith(kind)}
        if not of_each:
            return "none of them came to its end"
        slowest = max(of_each, key=lambda name: of_each[name])
        dataset = slowest.split("+")[0]
        return (
            f"the slowest is {slowest}, {of_each[slowest]:.3g} s each: take more chips, or lower "
            f"config.datasets.{dataset}.{key} (now {config.datasets[dataset][key]})"
        )
    return {
        "attention": "JAX_COMPILATION_CACHE_DIR=FOLDER keeps the compiled kernels for the next time",
        "data": f"opening the shards in config.data_dir={config.data_dir!r} is slow: {near}",
        "leaks_and_pixels": "search for leaks before, on any machine: python -m data_pipelines.doctor --config=FILE",
        "batches": f"reading config.data_dir={config.data_dir!r} is slow: {near}, or give each host more cores",
        "first_state": "config.model.init_from is read here, or the newest checkpoint of the workdir: " + near,
    }.get(stage, f"the folder beside --workdir answers slowly: {near}")


_CHECKPOINT = {"save_s": "saved in", "restore_s": "restored in"}
