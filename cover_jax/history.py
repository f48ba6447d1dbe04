"""What a run remembers beside its TrainState: where its input stands, and what went wrong with it so far.

All of it follows from the steps that were taken, alike on all hosts. It is kept as JSON in every checkpoint, so that a
run that goes on from one does as if it had never stopped.
"""

import dataclasses

from cover_jax import divergence, early_stop
from data_pipelines import mixture


@dataclasses.dataclass(frozen=True)
class History:
    """The past of a run.

    Attributes:
        course: which batches its steps consume.
        losses: dataset -> its last losses, the newest last (`divergence.check`).
        watch: over its evaluations.
        bad: dataset -> indices of its examples that were found undecodable (`bad_data.add`).
        rollbacks: what was gone back from: {"step", "to_step", "plan_steps", "reason"} each.
    """

    course: mixture.Course
    losses: dict[str, list[float]]
    watch: early_stop.Watch
    bad: dict[str, list[int]]
    rollbacks: tuple[dict, ...]

    def to_json(self, step: int) -> dict:
        """What `from_meta` continues from, as of before training step `step`."""
        return {
            "plan_step": self.course.plan_step_at(step),
            "ordinals": self.course.counts(step),
            "losses": self.losses,
            "watch": dataclasses.asdict(self.watch),
            "bad": self.bad,
            "rollbacks": list(self.rollbacks),
        }


def begin(mix: mixture.Mixture) -> History:
    """The past of a new run."""
    return History(mixture.Course(mix, 0, 0, mix.counts(0)), {}, early_stop.Watch(), {}, ())


def from_meta(mix: mixture.Mixture, step: int, meta: dict) -> History:
    """The past of a run that goes on from the checkpoint of `step`; its mix may have been another.

    Args:
        mix: of the run now; datasets that the checkpoint does not know begin.
        step: of the checkpoint.
        meta: what the checkpoint says of itself. One of before says nothing of the past: it never left its plan.
    """
    config = meta["config"]
    weights = {name: dataset["weight"] for name, dataset in config["datasets"].items()}
    saved = meta.get("history") or begin(mixture.Mixture(weights, config["plan"], config["seed"])).to_json(step)
    ordinals = {name: saved["ordinals"].get(name, 0) for name in mix.weights}
    course = mixture.Course(mix, step, saved["plan_step"], ordinals)
    losses = {name: list(saved["losses"].get(name, [])) for name in mix.weights}
    watch = early_stop.Watch(**saved.get("watch", {}))
    bad = {name: indices for name, indices in saved.get("bad", {}).items() if name in mix.weights}
    return History(course, losses, watch, bad, tuple(saved["rollbacks"]))


def rolled_back(past: History, restored: History, diverged: divergence.DivergedError) -> History:
    """The past of a run that diverged and goes on from `restored`, an earlier point of it, without the batches since.

    As PaLM's runs did (arXiv 2204.02311, section 5.1): other batches from a checkpoint before the spike on.
    """
    to_step, after = restored.course.step, diverged.step + 1
    course = dataclasses.replace(
        restored.course, plan_step=past.course.plan_step_at(after), ordinals=past.course.counts(after)
    )
    left_out = {
        "step": diverged.step,
        "to_step": to_step,
        "plan_steps": [restored.course.plan_step_at(to_step), course.plan_step],
        "reason": str(diverged),
    }
    return dataclasses.replace(restored, course=course, bad=past.bad, rollbacks=(*past.rollbacks, left_out))
