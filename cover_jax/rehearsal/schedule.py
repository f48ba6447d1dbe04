"""How long the whole run will take, from what a rehearsal has measured, and whether the input keeps up."""

import dataclasses
from collections.abc import Mapping

from cover_jax.parallel import sharding
from cover_jax.rehearsal.findings import Findings
from cover_jax.training import inputs, run_history
from cover_jax.training.run import Run
from data_pipelines.stream import mixture


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The whole run, by the figures of the slowest host.

    Attributes:
        epochs: dataset -> passes over its training examples.
        step_s: mean time of a step, without waiting for input.
        input_s: mean time in which a host reads the batches of a step, if its devices take no time.
        training_h, evaluations_h, saves_h: hours; training waits for input if that is slower.
        evaluations, saves: how many.
    """

    epochs: dict[str, float]
    step_s: float
    input_s: float
    training_h: float
    evaluations_h: float
    saves_h: float
    evaluations: int
    saves: int

    @property
    def hours(self) -> float:
        """All together, without start and compilation."""
        return self.training_h + self.evaluations_h + self.saves_h


def make_schedule(run: Run, measured: Mapping[str, float]) -> Schedule | None:
    """The schedule of a run; None if something that it needs was not measured.

    Args:
        run: with all its datasets.
        measured: `Findings.worst`.
    """
    config, counts = run.config, run.mix.counts(run.config.steps)
    rows = host_rows(run)
    try:
        of_steps = {names: measured[f"{'+'.join(names)}/step_s"] for names in run.setup.step_datasets}
        reading_s = sum(counts[name] * rows[name] / measured[f"{name}/input_clips_per_s"] for name in rows)
        evaluation_s = sum(
            run.evaluator.num_batches(name) * measured[f"{name}/eval_batch_s"] for name in run.setup.eval_steps
        )
        save_s = measured["save_blocks_s"]
    except KeyError:
        return None
    steps_s = sum(counts[names[0]] * seconds for names, seconds in of_steps.items())
    evaluations = -(-config.steps // config.eval_every_steps)
    saves = sum(
        step % config.checkpoint_every_steps == 0 or step % config.eval_every_steps == 0 or step == config.steps
        for step in range(1, config.steps + 1)
    )
    return Schedule(
        epochs=inputs.epochs(config, run_history.begin(run.mix).batch_schedule, run.num_examples),
        step_s=steps_s / config.steps,
        input_s=reading_s / config.steps,
        training_h=max(steps_s, reading_s) / 3600,
        evaluations_h=evaluations * evaluation_s / 3600 if run.setup.eval_steps else 0.0,
        saves_h=saves * save_s / 3600,
        evaluations=evaluations if run.setup.eval_steps else 0,
        saves=saves,
    )


def host_rows(run: Run) -> dict[str, int]:
    """Dataset with clips of its own -> the rows of each training batch that a host reads."""
    _, parts = sharding.host_part(run.setup.mesh)
    sources = mixture.by_clip_source(run.config.datasets)
    return {name: run.config.datasets[name].batch_size // parts for name in sources}


def check_input(run: Run, schedule: Schedule, measured: Mapping[str, float], findings: Findings) -> None:
    """Adds a problem if the devices would wait for the input."""
    if schedule.input_s <= schedule.step_s:
        return
    rows = host_rows(run)
    slowest = min(
        rows, key=lambda name: measured[f"{name}/input_clips_per_s"] / needed_clips_per_s(run, name, measured)
    )
    findings.add(
        f"the input is slower than the steps: a host reads the clips of a step in {schedule.input_s:.3g} s, the step "
        f"takes {schedule.step_s:.3g} s, so the devices would wait {1 - schedule.step_s / schedule.input_s:.0%} of the "
        f"time; the slowest is {slowest}, {measured[f'{slowest}/input_clips_per_s']:.3g} of the "
        f"{needed_clips_per_s(run, slowest, measured):.3g} clips/s that a host needs. Give each host more cores, use "
        f"them all (config.input.threads={run.config.input.threads}; 0: one per core), raise "
        f"config.datasets.{slowest}.repeats (now {run.config.datasets[slowest].repeats}), or prepare smaller frames"
    )


def needed_clips_per_s(run: Run, name: str, measured: Mapping[str, float]) -> float:
    """Clips of a dataset that a host must read per second while the steps are on that dataset."""
    names = next(names for names in run.setup.step_datasets if name in names)
    return host_rows(run)[name] / measured[f"{'+'.join(names)}/step_s"]
