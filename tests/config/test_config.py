"""A wrong config fails at once, and says which key, which value, and what would be right."""

import contextlib
import importlib
import pathlib
import re

import pytest
from absl import flags
from ml_collections import config_flags

from configs import common, cover_l, datasets, demo, finetune, finetune_head, folders, probe
from cover_jax.config import checks
from cover_jax.errors import ConfigError

NAMES = [p.stem for p in pathlib.Path(common.__file__).parent.glob("*.py")]
RUNNABLE = sorted(
    set(NAMES) - {"__init__", "common", "datasets", "finetune", "finetune_head", "folders", "probe", "ablations"}
)


@pytest.mark.parametrize("name", RUNNABLE)
def test_every_config_is_valid(name):
    checks.validate(importlib.import_module(f"configs.{name}").get_config())


@pytest.mark.parametrize("kinetics", cover_l.KINETICS)
def test_the_mix_has_the_kinetics_that_is_asked_for(kinetics):
    config = cover_l.get_config(kinetics)
    checks.validate(config)
    assert config.datasets[kinetics].num_classes == int(kinetics[1:]), kinetics
    assert set(config.datasets) == {kinetics, "ssv2", "mit", "imagenet"}


def test_left_and_right_are_never_swapped_where_a_class_means_a_side():
    assert cover_l.get_config().datasets.ssv2.augment.flip == "never"
    assert datasets.digits("motion").augment.flip == "never"


def test_folders_take_any_number_of_sets():
    config = folders.get_config("video_folder/a,video_folder/b,image_folder/c")
    checks.validate(config)
    assert {name: d.num_frames for name, d in config.datasets.items()} == {"a": 8, "b": 8, "c": 1}


@pytest.mark.parametrize("argument", ["", "a", "video_folder/", "audio_folder/a", "video_folder/a,image_folder/a"])
def test_folders_refuses(argument):
    for config in (folders, finetune, finetune_head):
        with pytest.raises(ValueError, match=f"^configs/{config.__name__.partition('.')[2]}.py"):
            config.get_config(argument)


def from_command_line(*arguments):
    """The config that main.py would see."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=["main", *arguments])
    values(["main", *arguments])
    return values.config


# ml_collections 1.1 loads a config file that way; Python means to drop it.
@pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated:DeprecationWarning")
def test_finetuning_says_what_it_starts_from():
    argument = f"--config={finetune.__file__}:video_folder/a,image_folder/b"
    with pytest.raises(ConfigError, match=r"^config.model.init_from: must be given, as in --config.model."):
        checks.validate(from_command_line(argument))
    config = from_command_line(argument, "--config.model.init_from=run")
    checks.validate(config)
    assert config.model.init_from == "run"
    assert {name: d.num_frames for name, d in config.datasets.items()} == {"a": 8, "b": 1}


# key, impossible value, what the message must say besides them
IMPOSSIBLE = [
    ("seed", -1, "from 0"),
    ("steps", 0, "greater than 0"),
    ("early_stop_evals", -1, "0 or greater"),
    ("log_every_steps", 0, "greater than 0"),
    ("profile_steps", (20, 10), "0 <= first <= second"),
    ("max_loss_ratio", 0.5, "0 or greater than 1"),
    ("max_rollbacks", -1, "0 or greater"),
    ("loss_window_steps", 0, "greater than 0"),
    ("plan", "alternate", "'interleave', 'joint'"),
    ("best_metric", "appearance/top2", "appearance/top1"),
    ("steps", "many", "type int"),
    ("steps", 1.5, "type int"),
    ("optimizer.learning_rate", float("nan"), "finite"),
    ("datasets.images.loss_weight", 3.5e38, "a finite number, in float32 too"),
    ("optimizer.learning_rate", 0.0, "greater than 0"),
    ("optimizer.name", "adam", "'sgd', 'adamw'"),
    ("datasets.motion.weight_schedule", "500", "STEP:WEIGHT"),
    ("datasets.motion.learning_rate_scale", 0.0, "greater than 0"),
    ("datasets.motion.drop_path", 1.0, "-1, or from 0 to below 1"),
    ("optimizer.layer_decay", 1.5, "at most 1"),
    ("optimizer.frozen", "(", "regular expression"),
    ("optimizer.clip_norm", -1.0, "0 or greater"),
    ("optimizer.ema_decay", 1.0, "below 1"),
    ("model.variant", "XL/16", "L"),
    ("model.init_from", "s3://bucket/model.npz", "WORKDIR@STEP or 'hf://ORG/REPO"),
    ("model.init_from", "hf://vit", "hf://ORG/REPO"),
    ("model.size_px", 18, "multiple of the patch"),
    ("model.head", "conv", "'linear', 'mlp', 'attentive'"),
    ("model.pixel_std", (0.5, 0.0, 0.5), "greater than 0"),
    ("model.pixel_mean", (0.5,), "three numbers"),
    ("model.drop_path", 1.0, "below 1"),
    ("mesh.tensor", 3, "divide the 4 heads"),
    ("evaluators", ("knn",), "a tuple of 'accuracy', 'knn', 'accuracy' first, each at most once"),
    ("evaluators", ("accuracy", "knnn"), "a tuple of 'accuracy', 'knn'"),
    ("evaluators", ("accuracy", 20), "a tuple of names, as in ('accuracy',)"),
    ("loggers", ("wandb", "wandb"), "a tuple of 'tensorboard', 'wandb', each at most once"),
    ("best_metric", "motion/knn_top1", "mean_top1, "),
    ("knn.neighbours", 0, "greater than 0"),
    ("datasets.motion.head.kind", "probe", "'', 'linear', 'mlp', 'attentive'"),
    ("mesh.data", 0, "-1 or greater"),
    ("datasets.motion.weight", 0.0, "greater than 0"),
    ("datasets.motion.builder", "Digits Motion", "name/config"),
    ("datasets.motion.canvas_px", (16,), "height, width"),
    ("datasets.motion.canvas_px", (16, 16.0), "a tuple of integers, as in (0, 0)"),
    ("model.pixel_mean", (0.5, float("nan"), 0.5), "a tuple of finite numbers, as in (0.5, 0.5, 0.5)"),
    ("datasets.motion.augment.randaugment_layers", 15, "from 0 to 14"),
    ("model.pixel_mean", (0.5, True, 0.5), "a tuple of finite numbers"),
    ("datasets.motion.eval_crops", 2, "1 or 3"),
    ("datasets.motion.repeats", 0, "greater than 0"),
    ("datasets.motion.augment.flip", "no", "must be one of 'swap', 'never', 'always'"),
    ("datasets.motion.augment.crop", "center", "'area', 'scale', 'none'"),
    ("datasets.motion.augment.crop_range", (1.0, 0.3), "first <= second"),
    ("datasets.motion.augment.erase_prob", 1.1, "from 0 to 1"),
    ("input.leaks", "drop", "'exclude', 'report', 'ignore'"),
]


def test_probes_are_heads_of_one_dataset_side_by_side():
    config = probe.get_config("video_folder/mine,attentive,linear,2,0.5")
    config.model.init_from = "weights.npz"
    checks.validate(config)
    heads = {name: (d.head.kind, d.head.learning_rate_scale) for name, d in config.datasets.items()}
    assert heads == {
        "attentive_lr2": ("attentive", 2.0), "linear_lr2": ("linear", 2.0),
        "attentive_lr0_5": ("attentive", 0.5), "linear_lr0_5": ("linear", 0.5),
    }  # fmt: skip
    assert {dataset.builder for dataset in config.datasets.values()} == {"video_folder/mine"}
    assert config.optimizer.clip_norm == 0 and config.optimizer.frozen == "backbone/.*"
    with pytest.raises(ValueError, match="after BUILDER/NAME must come linear, attentive or numbers"):
        probe.get_config("video_folder/mine,cubic")


@pytest.mark.parametrize(("key", "value", "right"), IMPOSSIBLE, ids=[f"{k}={v}" for k, v, _ in IMPOSSIBLE])
def test_impossible_value(key, value, right):
    config = demo.get_config().unlock()
    group, _, last = key.rpartition(".")
    parent = config
    for part in filter(None, group.split(".")):
        parent = parent[part]
    with parent.ignore_type():
        parent[last] = value
    with pytest.raises(ConfigError) as error:
        checks.validate(config)
    assert f"config.{key}={value!r}" in str(error.value)
    assert right in str(error.value)


@pytest.mark.parametrize(("task", "is_measured"), [("multiclass", True), ("multilabel", False)])
def test_the_best_metric_is_one_that_its_evaluator_measures(task, is_measured):
    config = demo.get_config()
    config.evaluators, config.best_metric = ("accuracy", "knn"), "motion/knn_top1"
    config.datasets.motion.task = task
    with contextlib.nullcontext() if is_measured else pytest.raises(ConfigError, match="must be one of"):
        checks.validate(config)


def test_unknown_key_names_the_near_one():
    config = demo.get_config()
    config.datasets.motion.batchsize = 8
    with pytest.raises(ConfigError, match=re.escape("did you mean config.datasets.motion.batch_size?")):
        checks.validate(config)


def test_missing_key_names_its_default():
    config = demo.get_config()
    del config.optimizer.momentum
    with pytest.raises(ConfigError, match=r"config.optimizer.momentum: missing; its default is 0.9"):
        checks.validate(config)


def test_all_errors_are_told_at_once():
    config = demo.get_config()
    config.steps, config.seed = 0, -1
    with pytest.raises(ConfigError) as error:
        checks.validate(config)
    assert len(str(error.value).splitlines()) == 2


def test_a_run_needs_a_dataset():
    with pytest.raises(ConfigError, match="needs at least one dataset"):
        checks.validate(common.get_config())


def mesh_of(num_devices):
    return {"data": num_devices, "fsdp": 1, "tensor": 1}


def test_an_evaluation_batch_needs_no_divisor():
    config = demo.get_config()
    config.datasets.motion.eval_batch_size = 3
    checks.validate_batches(config, mesh_of(8))


def test_batches_must_be_shared_evenly():
    config = demo.get_config()
    config.datasets.motion.augment.mixup_alpha = 0.2
    config.datasets.motion.batch_size = 24
    checks.validate_batches(config, mesh_of(4))
    with pytest.raises(ConfigError, match=r"datasets.motion.batch_size=24: must be a multiple of 16"):
        checks.validate_batches(config, mesh_of(8))
    config.datasets.motion.repeats = 6
    checks.validate_batches(config, mesh_of(4))  # one example per device: mixed with the neighbour's
    config.datasets.motion.repeats = 12
    with pytest.raises(ConfigError, match=r"multiple of 96.*each example in repeats=12 rows, mixed in pairs"):
        checks.validate_batches(config, mesh_of(4))
    config.datasets.motion.repeats = 1
    config.optimizer.grad_accum_steps = 16
    with pytest.raises(ConfigError, match=r"grad_accum_steps=16 pieces, mixed in pairs"):
        checks.validate_batches(config, mesh_of(1))
