"""What a checkpoint says of its data and config, in words: for reports and model cards."""

import json

from ml_collections import ConfigDict

from cover_jax import config as config_lib
from data_pipelines import leaks, manifest

DATA_COLUMNS = ("dataset", "prepared as", "trained on", "left out", "of what its source lists")
CONFIG_COLUMNS = ("key", "value", "default")


def data_rows(meta: dict) -> list[tuple]:
    """A row of DATA_COLUMNS for each dataset, of `checkpoint.make_meta`."""
    return [
        (name, about["builder"], about["examples"], about["excluded"], manifest.line(about["manifest"]))
        for name, about in meta["data"].items()
    ]


def leak_lines(meta: dict, config: ConfigDict) -> list[str]:
    """What is known of leaks in the mix, a line each."""
    if config.input.leaks == "ignore":
        return ["leaks: not searched for (config.input.leaks='ignore')"]
    lines = leaks.report(meta["leaks"]) or ["leaks: no two datasets of one kind, so nothing to compare"]
    left_out = sum(about["excluded"] for about in meta["data"].values())
    return [*lines, f"leaks: {left_out} examples left out of training"] if left_out else lines


def config_rows(config: ConfigDict) -> list[tuple[str, str, str]]:
    """A row of CONFIG_COLUMNS for each key that is not at its default."""
    return [
        (key, in_words(value), "" if default is None else in_words(default))
        for key, value, default in config_lib.differences(config)
    ]


def in_words(value) -> str:
    """A config's value as JSON."""
    return json.dumps(value.to_dict() if isinstance(value, ConfigDict) else value)
