"""Each key is declared once: its default, its rule and its text; checks, the list of keys and the page follow."""

import json
import pathlib

import pytest
from ml_collections import ConfigDict

from configs import common
from cover_jax.checkpoint import compatibility, metadata
from cover_jax.config import __main__ as command
from cover_jax.config import checks, flags, keys, reference, schema
from cover_jax.errors import ConfigError
from cover_jax.models import attention, heads, layers, timesformer
from cover_jax.preprocess import mirrored_labels
from data_pipelines.leaks import search
from data_pipelines.stream import mixture

ROOT = pathlib.Path(__file__).parents[2]
DEFAULTS = json.loads((ROOT / "tests/config/defaults.json").read_text())  # as 0.1.0 had them
KEYS = {f"{prefix}.{name}".lstrip("."): entry for prefix, group in keys.walk(schema.Run)
        for name, entry in group.keys().items() if isinstance(entry, keys.Key)}  # fmt: skip


def as_today(defaults: dict) -> dict:
    """The defaults of 0.1.0 with what changed since: names of flips, canvases that follow the model, more keys."""
    defaults = {name: as_today(value) if isinstance(value, dict) else value for name, value in defaults.items()}
    if "best_metric" in defaults:
        defaults |= {"evaluators": ["accuracy"], "loggers": ["tensorboard"]}
        defaults |= {"knn": {"neighbours": 20, "temperature": 0.07}}
    if defaults.get("flip") is True:
        defaults |= {"flip": "swap", "opposites": ""}
    if "canvas_px" in defaults:
        defaults |= {"canvas_px": [0, 0]}
    if "gelu" in defaults:
        defaults |= {"pre_norm": False, "registers": 0}
    if "loss_weight" in defaults:
        defaults |= {
            "weight_schedule": "",
            "learning_rate_scale": 1.0,
            "drop_path": -1.0,
            "task": "multiclass",
            "heads": "",
            "list_of_files": "",
        }
        defaults |= {"head": {"kind": "", "depth": 4, "num_heads": 0, "learning_rate_scale": 1.0}}
    return defaults


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_defaults_are_those_that_they_were(name):
    config = getattr(common, name)()
    assert isinstance(config, ConfigDict) and json.loads(config.to_json()) == as_today(DEFAULTS[name])
    assert getattr(common, name)() is not config  # new ones each time


@pytest.mark.parametrize("key", KEYS)
def test_a_key_says_what_it_does_and_its_default_is_allowed(key):
    text, rule = KEYS[key].description(), KEYS[key].rule
    assert text.endswith(".") and "  " not in text and rule.text and not rule.text.endswith(".")
    assert rule.holds(KEYS[key].default) or key == "datasets.NAME.builder"
    assert not rule.choices or set(rule.choices) == {one for one in rule.choices if rule.holds(one)}
    assert (rule is keys.SWITCH) == isinstance(KEYS[key].default, bool)


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("plan", mixture.PLANS),
        ("input.leaks", search.MODES),
        ("model.head", heads.HEADS),
        ("model.attention", attention.FORMS),
        ("model.remat", timesformer.REMATS),
        ("model.gelu", layers.GELUS),
        ("model.temporal_init", timesformer.TEMPORAL_INITS),
    ],
)
def test_allowed_values_are_those_of_the_code(key, code):
    """The schema loads neither JAX nor TensorFlow, so it cannot take them from there."""
    assert set(KEYS[key].rule.choices) == set(code)


def test_a_key_is_found_by_its_path():
    assert keys.find(schema.Run, "datasets.any_name.augment.flip") is schema.Augment.flip
    assert keys.find(schema.Run, "optimizer.learning_rate").default == 0.1
    for path in ("optimizer", "datasets", "datasets.a", "no_such", "steps.more"):
        assert keys.find(schema.Run, path) is None


@pytest.mark.parametrize(("value", "mode"), [(True, "swap"), (False, "never"), ("always", "always")])
def test_flips_of_0_1_0_go_on_working(value, mode):
    """In config files, on the command line, and in the configs of checkpoints, which hold booleans."""
    config = common.get_config()
    config.datasets.a = common.dataset()
    config.datasets.a.builder = "digits/motion"
    config.datasets.a.augment.flip = value
    checks.validate(config)
    assert mirrored_labels.flip_mode(config.datasets.a.augment.flip) == mode
    assert json.loads(config.to_json())["datasets"]["a"]["augment"]["flip"] == value
    assert flags.override(config, [f"--config.datasets.a.augment.flip={value}"]) == []
    assert mirrored_labels.flip_mode(config.datasets.a.augment.flip) == mode
    saved = {"config": json.loads(config.to_json())}
    assert mirrored_labels.flip_mode(metadata.config_of(saved).datasets.a.augment.flip) == mode
    changed = {key: value for key, value, _ in checks.differences(config) if key.endswith("flip")}
    assert changed == ({} if mode == "swap" else {"datasets.a.augment.flip": mode})
    today = json.loads(config.to_json())
    today["datasets"]["a"]["augment"]["flip"] = mode
    meta = {"heads": {}, "data": {}}
    assert compatibility.check_same_run(meta | saved, meta | {"config": today}, "here") == []


@pytest.mark.parametrize(("key", "value"), [("flip", "no"), ("flip", 1), ("opposites", "bow"), ("opposites", "a/a")])
def test_what_flips_cannot_be(key, value):
    config = common.get_config()
    config.datasets.a = common.dataset()
    config.datasets.a.builder = "digits/motion"
    with config.ignore_type():
        config.datasets.a.augment[key] = value
    with pytest.raises(ConfigError, match=rf"config.datasets.a.augment.{key}={value!r}: must be"):
        checks.validate(config)


def test_a_value_that_is_left_to_the_user_says_what_it_may_be():
    config = common.get_config()
    with config.ignore_type():
        config.model.init_from = None
    with pytest.raises(ConfigError, match=r"^config.model.init_from: must be given, .*; it must be '', a path, 'gs://"):
        checks.validate(config)


def test_the_page_of_all_keys_is_fresh():
    page = (ROOT / "configs/KEYS.md").read_text()
    assert page == reference.as_markdown().rstrip() + "\n", "python -m cover_jax.config --format=markdown --out=..."


def test_the_command_lists_keys(tmp_path, capsys):
    command.main([])
    printed = capsys.readouterr().out
    assert all(
        f"config.{key} = {entry.default!r}  (must be {entry.rule.text})" in printed for key, entry in KEYS.items()
    )
    command.main(["Learning_Rate", f"--json={tmp_path / 'keys.json'}"])
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert [line.split()[0] for line in lines] == [
        "config.datasets.NAME.loss_weight",
        "config.datasets.NAME.learning_rate_scale",
        "config.datasets.NAME.head.learning_rate_scale",
        "config.optimizer.learning_rate",
        "config.optimizer.final_learning_rate",
    ]
    rows = json.loads((tmp_path / "keys.json").read_text())
    assert [row["key"] for row in rows] == list(KEYS)
    with pytest.raises(SystemExit, match="'no_such': no key has this word"):
        command.main(["no_such"])
