"""What is said at the start of a run whose config is valid, but does otherwise than its values say."""

import pytest

from configs import demo, probe
from cover_jax.config import checks, notices
from cover_jax.errors import ConfigError


def lines_of(**changes) -> list[str]:
    config = demo.get_config()
    for key, value in changes.items():
        group, _, last = key.rpartition("__")
        parent = config
        for part in filter(None, group.split("__")):
            parent = parent[part]
        parent[last] = value
    checks.validate(config)
    return notices.of(config)


def test_nothing_is_said_of_a_config_that_does_what_it_says():
    assert lines_of() == []


def test_a_cut_warmup_is_named():
    (line,) = lines_of(optimizer__warmup_steps=500, steps=20)
    assert line.startswith("config.optimizer.warmup_steps=500: cut to 19, because the run has 20 steps;")


def test_probes_that_influence_each_other_are_named():
    config = probe.get_config("video_folder/mine")
    config.model.init_from = "weights.npz"
    assert notices.of(config) == []
    config.optimizer.clip_norm, config.optimizer.frozen = 1.0, ""
    clipped, trained = notices.of(config)
    assert clipped.startswith("WARNING: config.optimizer.clip_norm=1: one norm over all heads")
    assert trained.startswith("WARNING: config.optimizer.frozen='': the backbone learns from the heads of all")


LOSS_WEIGHT = {"datasets__motion__loss_weight": 2.0, "plan": "interleave", "optimizer__clip_norm": 1.0}


def test_a_loss_weight_without_effect_is_named():
    (line,) = lines_of(**LOSS_WEIGHT)
    assert line.startswith("WARNING: config.datasets.motion.loss_weight=2: a step has one dataset, so it has no effect")
    assert line.endswith("config.datasets.motion.learning_rate_scale has an effect there")


@pytest.mark.parametrize("change", [{"plan": "joint"}, {"optimizer__clip_norm": 0.0}])
def test_a_loss_weight_with_an_effect_is_not(change):
    assert lines_of(**LOSS_WEIGHT | change) == []


def test_a_schedule_of_weights_without_effect_is_named():
    schedule = {"datasets__motion__weight_schedule": "10:2"}
    assert lines_of(**schedule, plan="interleave") == []
    (line,) = lines_of(**schedule, plan="joint")
    assert "config.datasets.*.weight_schedule (motion): no effect" in line


def test_a_joint_step_has_one_learning_rate():
    scales = {f"datasets__{name}__learning_rate_scale": 0.5 for name in ("appearance", "images", "motion")}
    assert lines_of(**scales, plan="joint") == []
    assert lines_of(datasets__motion__learning_rate_scale=0.5, plan="interleave") == []
    with pytest.raises(ConfigError, match=r"appearance 1, images 1, motion 0.5: must be the same for all.*loss_weight"):
        lines_of(datasets__motion__learning_rate_scale=0.5, plan="joint")


@pytest.mark.parametrize(
    ("schedules", "said"),
    [
        ({"motion": "9:1, 9:2"}, "'9:1, 9:2': the steps must be from 0 to 2"),
        (dict.fromkeys(("appearance", "images", "motion"), "9:0"), "from step 9 on, all datasets have weight 0"),
    ],
)
def test_an_impossible_schedule_of_weights_is_refused(schedules, said):
    with pytest.raises(ConfigError, match=rf"^config.datasets.\*.weight_schedule: {said}"):
        lines_of(**{f"datasets__{name}__weight_schedule": text for name, text in schedules.items()})
