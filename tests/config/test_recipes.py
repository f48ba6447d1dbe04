"""The full-size recipes: their words, what they take from their neighbours, and the epochs that the page states."""

import importlib
import pathlib

import pytest
from ml_collections import ConfigDict

from configs import cover_l, datasets
from cover_jax.config import checks
from cover_jax.models import flops
from data_pipelines.output import text_tables
from data_pipelines.stream import mixture

PAGE = pathlib.Path(cover_l.__file__).with_name("README.md")
RECIPES = [f"{stage}{kinetics}" for stage in ("", "stage1,", "stage2,") for kinetics in cover_l.KINETICS]


def config_of(argument: str, name: str = "cover_l") -> ConfigDict:
    config = importlib.import_module(f"configs.{name}").get_config(argument)
    if "stage2" in argument:
        with pytest.raises(checks.ConfigError, match=r"config.model.init_from: must be given"):
            checks.validate(config)
        config.model.init_from = "gs://bucket/stage1@best"
    checks.validate(config)
    return config


def test_the_page_states_the_epochs_of_each_recipe():
    rows = []
    for argument in RECIPES:
        config = config_of(argument)
        epochs, total = datasets.epochs(config), total_weight(config)
        names = (argument.rpartition(",")[2], "ssv2", "mit", "imagenet")
        shares = {name: config.datasets[name].weight / total for name in names}
        flop = config.steps * sum(share * flops.train_step(config, name) for name, share in shares.items())
        rows.append([
            f"`{argument}`", f"{config.steps:,}", *(f"{epochs[name]:.1f}" for name in names), f"{shares['mit']:.1%}",
            f"{flop / 1e18:.0f}",
        ])  # fmt: skip
    header = ["`cover_l.py:`", "steps", "Kinetics", "SSv2", "Moments", "ImageNet", "draws of Moments", "EFLOP"]
    table = text_tables.markdown_table(header, rows)
    assert table in PAGE.read_text(), table


def total_weight(config: ConfigDict) -> float:
    return sum(dataset.weight for dataset in config.datasets.values())


@pytest.mark.parametrize("argument", RECIPES)
def test_the_epochs_are_those_of_the_step_plan(argument):
    config = config_of(argument)
    counts = mixture.Mixture.of(config.datasets, config.plan, config.seed).counts(config.steps)
    for name, epochs in datasets.epochs(config).items():
        dataset = config.datasets[name]
        by_plan = counts[name] * dataset.batch_size / datasets.TRAIN_EXAMPLES[dataset.builder]
        assert by_plan == pytest.approx(epochs, rel=0.01)


@pytest.mark.parametrize("kinetics", cover_l.KINETICS)
def test_the_two_stages_are_what_an_expert_asks_for(kinetics):
    first, second = (config_of(f"{stage},{kinetics}") for stage in cover_l.STAGES)
    for config in (first, second):
        assert 0.35 <= config.datasets.mit.weight / total_weight(config) <= 0.40
        assert config.optimizer.ema_decay and config.datasets.ssv2.drop_path == 0.3 and config.model.drop_path == 0.1
        scales = {name: dataset.learning_rate_scale for name, dataset in config.datasets.items()}
        assert scales == {kinetics: 0.1, "ssv2": 0.2, "mit": 0.25, "imagenet": 0.03}
    assert datasets.epochs(first)[kinetics] == pytest.approx(30, abs=0.1)
    assert 120_000 <= first.steps <= 180_000 and second.steps == first.steps // 10
    assert (first.model.size_px, second.model.size_px) == (224, 448)
    same = dict(checks.flatten(first))
    changed = {key for key, value in checks.flatten(second) if same[key] != value}
    assert changed == {
        "steps", "eval_every_steps", "model.size_px", "model.init_from", "optimizer.learning_rate",
        "optimizer.warmup_steps", "optimizer.ema_decay",
        *(f"datasets.{name}.augment.crop_range" for name in (kinetics, "ssv2", "mit")),
    }  # fmt: skip


def test_words_choose_the_datasets_in_any_order():
    config = config_of("mit339,imagenet21k,k600")
    assert {name: dataset.builder for name, dataset in config.datasets.items()} == {
        "k600": "kinetics/600", "ssv2": "something_something/v2", "mit": "moments_in_time/339",
        "imagenet21k": "imagenet21k",
    }  # fmt: skip
    assert config.datasets.imagenet21k.num_classes == 19_167 and config.datasets.mit.num_classes == 339
    assert config_of("").datasets.mit.num_classes == 305


@pytest.mark.parametrize("argument", ["k500", "k400,k600", "stage1,stage2", "imagenet,imagenet21k", "stage3"])
@pytest.mark.parametrize("name", ["cover_l", "cover_s"])
def test_other_words_are_refused(name, argument):
    with pytest.raises(
        ValueError, match=rf"^configs/{name}.py:{argument}: must be at most one word of each: stage1 or"
    ):
        importlib.import_module(f"configs.{name}").get_config(argument)


@pytest.mark.parametrize(
    ("name", "size_px", "num_frames", "weights"),
    [("b", 224, 8, "B_16"), ("s", 224, 8, "S_16"), ("ti", 224, 8, "Ti_16"), ("h", 448, 16, "huge"), ("g", 448, 16, "")],
)
def test_other_sizes_take_the_same_words(name, size_px, num_frames, weights):
    alone, first, second = (config_of(argument, f"cover_{name}") for argument in ("", *cover_l.STAGES))
    assert [one.model.size_px for one in (alone, first, second)] == [size_px, 224, 448]
    assert weights in alone.model.init_from and alone.model.init_from == first.model.init_from
    assert {dataset.num_frames for dataset in first.datasets.values()} == {1, num_frames}
