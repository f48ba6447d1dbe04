"""What a run stores beside its TrainState: its position in the input, its faults so far, and its best evaluation.

It depends only on the completed steps and is identical on all hosts. Every checkpoint stores it as JSON, so that a run
that continues from a checkpoint behaves as if it had never stopped.
"""

import dataclasses
from collections.abc import Mapping

from cover_jax.training import health
from data_pipelines.stream import mixture


@dataclasses.dataclass
class EarlyStop:
    """Stored in each checkpoint, so that a run that was interrupted ends at the same step as one that was not.

    Attributes:
        best: the largest value of config.best_metric; None before the first evaluation.
        evals_since: number of evaluations since the best one.
        missed: the evaluation of this step was skipped because of a signal, and must still be done.
    """

    best: float | None = None
    evals_since: int = 0
    missed: bool = False

    def add(self, accuracies: Mapping[str, float], metric: str) -> None:
        """Counts an evaluation. A value equal to the best is not better, so a run with 100 % accuracy ends too."""
        self.missed = False
        if metric not in accuracies:  # nothing is evaluated
            return
        is_better = self.best is None or accuracies[metric] > self.best
        self.evals_since = 0 if is_better else self.evals_since + 1
        self.best = accuracies[metric] if is_better else self.best

    def is_over(self, patience: int) -> bool:
        """Whether the run must end. `patience` is config.early_stop_evals; 0: never."""
        return 0 < patience <= self.evals_since


@dataclasses.dataclass(frozen=True)
class RunHistory:
    """What a run stores beside its TrainState.

    Attributes:
        batch_schedule: which batches its steps consume.
        losses: dataset -> its last losses, the newest last (`health.check_divergence`).
        watch: counts evaluations without a new best.
        bad: dataset -> indices of its undecodable examples (`health.add_undecodable`).
        rollbacks: one {"step", "to_step", "plan_steps", "reason"} per rollback.
    """

    batch_schedule: mixture.BatchSchedule
    losses: dict[str, list[float]]
    watch: EarlyStop
    bad: dict[str, list[int]]
    rollbacks: tuple[dict, ...]

    def to_json(self, step: int) -> dict:
        """The history before training step `step`, as JSON for `from_meta`."""
        return {
            "plan_step": self.batch_schedule.plan_step_at(step),
            "ordinals": self.batch_schedule.counts(step),
            "losses": self.losses,
            "watch": dataclasses.asdict(self.watch),
            "bad": self.bad,
            "rollbacks": list(self.rollbacks),
        }


def begin(mix: mixture.Mixture) -> RunHistory:
    """The history of a new run."""
    return RunHistory(mixture.BatchSchedule(mix, 0, 0, mix.counts(0)), {}, EarlyStop(), {}, ())


def from_meta(mix: mixture.Mixture, step: int, meta: dict) -> RunHistory:
    """The history of a run that continues from the checkpoint of `step`, whose mix may differ from the run's.

    Args:
        mix: the mix of the run now. Datasets that the checkpoint does not have start at their first batch.
        step: of the checkpoint.
        meta: the metadata of the checkpoint. Old checkpoints have no history: their runs followed the plan exactly.
    """
    config = meta["config"]
    its_mix = mixture.Mixture.of(config["datasets"], config["plan"], config["seed"])
    saved = meta.get("history") or begin(its_mix).to_json(step)
    ordinals = {name: saved["ordinals"].get(name, 0) for name in mix.weights}
    schedule = mixture.BatchSchedule(mix, step, saved["plan_step"], ordinals)
    losses = {name: list(saved["losses"].get(name, [])) for name in mix.weights}
    watch = EarlyStop(**saved.get("watch", {}))
    bad = {name: indices for name, indices in saved.get("bad", {}).items() if name in mix.weights}
    return RunHistory(schedule, losses, watch, bad, tuple(saved["rollbacks"]))


def rolled_back(history: RunHistory, restored: RunHistory, diverged: health.DivergedError) -> RunHistory:
    """The history of a diverged run that continues from the earlier point `restored` and skips the batches since then.

    As in PaLM's training (arXiv 2204.02311, section 5.1): other batches from a checkpoint before the spike.
    """
    to_step, after = restored.batch_schedule.step, diverged.step + 1
    schedule = dataclasses.replace(
        restored.batch_schedule,
        plan_step=history.batch_schedule.plan_step_at(after),
        ordinals=history.batch_schedule.counts(after),
    )
    left_out = {
        "step": diverged.step,
        "to_step": to_step,
        "plan_steps": [restored.batch_schedule.plan_step_at(to_step), schedule.plan_step],
        "reason": str(diverged),
    }
    return dataclasses.replace(
        restored, batch_schedule=schedule, bad=history.bad, rollbacks=(*history.rollbacks, left_out)
    )
