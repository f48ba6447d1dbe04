"""What a run was made of: data with what it lacks and leaks, config, versions."""

import json

from ml_collections import ConfigDict

from cover_jax import config as config_lib
from data_pipelines import leaks, manifest, page
from data_pipelines.page import Html, escape


def data(meta: dict, config: ConfigDict) -> Html:
    """Each dataset against what its source lists, and what is in several of them."""
    rows = [
        [name, about["builder"], about["examples"], about["excluded"], manifest.line(about["manifest"])]
        for name, about in meta["data"].items()
    ]
    columns = ["dataset", "prepared as", "trained on", "left out", "of what its source lists"]
    table = page.table(columns, rows, ("trained on", "left out"), "Data")
    lines = "".join(f"<p>{escape(line)}</p>" for line in leak_lines(meta, config))
    return Html(f"{table}<h3>Leaks between validation and training sets</h3>{lines}")


def leak_lines(meta: dict, config: ConfigDict) -> list[str]:
    """What is known of leaks in the mix, a line each."""
    if config.input.leaks == "ignore":
        return ["leaks: not searched for (config.input.leaks='ignore')"]
    lines = leaks.report(meta["leaks"]) or ["leaks: no two datasets of one kind, so nothing to compare"]
    left_out = sum(about["excluded"] for about in meta["data"].values())
    return [*lines, f"left out of training for that: {left_out} examples"] if left_out else lines


def config(of_run: ConfigDict) -> Html:
    """What differs from the defaults, and, where one asks for it, all."""
    rows = [
        [key, _value(value), "" if default is None else _value(default)]
        for key, value, default in config_lib.differences(of_run)
    ]
    whole = ([key, _value(value)] for key, value in config_lib.flatten(of_run))
    return Html(
        f"{page.table(['key', 'value', 'default'], rows, label='Config: differences from the defaults')}"
        f"<details><summary>The whole config</summary>{page.table(['key', 'value'], whole, label='Config')}</details>"
    )


def versions(meta: dict) -> Html:
    """Of Python and packages."""
    return page.table(["package", "version"], meta["versions"].items(), label="Versions")


def _value(value) -> str:
    return json.dumps(value.to_dict() if isinstance(value, ConfigDict) else value)
