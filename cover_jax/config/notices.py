"""Lines for the start of a run: where a valid config does otherwise than its values seem to say."""

import re
from collections.abc import Iterator

from ml_collections import ConfigDict

_OF_BACKBONE = "backbone/blocks/mlp/fc1/kernel"  # one of its parameters


def of(config: ConfigDict) -> list[str]:
    """The lines on a validated config, each with its key."""
    return [
        *_warmup_lines(config), *_loss_weight_lines(config), *_schedule_lines(config), *_shared_clips_lines(config)
    ]  # fmt: skip


def cut_warmup(warmup_steps: int, steps: int) -> int:
    """How many steps the warm-up has in a run of `steps`: at least one step is left to the decay."""
    return min(warmup_steps, steps - 1)


def _warmup_lines(config: ConfigDict) -> Iterator[str]:
    wanted = config.optimizer.warmup_steps
    if (warmup_steps := cut_warmup(wanted, config.steps)) < wanted:
        yield (
            f"config.optimizer.warmup_steps={wanted}: cut to {warmup_steps}, because the run has {config.steps} steps; "
            "the learning rate rises until its last step"
        )


def _loss_weight_lines(config: ConfigDict) -> Iterator[str]:
    one_per_step = config.plan == "interleave" or len(config.datasets) == 1
    clip_norm = config.optimizer.clip_norm
    if not (one_per_step and clip_norm):
        return
    for name, dataset in config.datasets.items():
        if dataset.loss_weight != 1:
            yield (
                f"WARNING: config.datasets.{name}.loss_weight={dataset.loss_weight:g}: a step has one dataset, so it "
                f"has no effect where the gradient is clipped (config.optimizer.clip_norm={clip_norm:g}); "
                f"config.datasets.{name}.learning_rate_scale has an effect there"
            )


def _schedule_lines(config: ConfigDict) -> Iterator[str]:
    scheduled = [name for name, dataset in config.datasets.items() if dataset.weight_schedule]
    if scheduled and config.plan == "joint":
        names = ", ".join(scheduled)
        yield f"WARNING: config.datasets.*.weight_schedule ({names}): no effect with config.plan='joint'"


def _shared_clips_lines(config: ConfigDict) -> Iterator[str]:
    """Heads on the same clips are most often probes, which must not influence each other."""
    users = [name for name, dataset in config.datasets.items() if dataset.same_clips_as]
    if not users:
        return
    clip_norm, frozen = config.optimizer.clip_norm, config.optimizer.frozen
    if clip_norm:
        yield (
            f"WARNING: config.optimizer.clip_norm={clip_norm:g}: one norm over all heads, so each is trained as the "
            "gradients of the others let it; 0 trains each as if it were alone"
        )
    if not re.fullmatch(frozen, _OF_BACKBONE):
        yield (
            f"WARNING: config.optimizer.frozen={frozen!r}: the backbone learns from the heads of all datasets "
            "together; 'backbone/.*' trains each as if it were alone"
        )
