"""What a run was made of: data with what it lacks and leaks, config, versions."""

from ml_collections import ConfigDict

from cover_jax import config as config_lib
from cover_jax import provenance
from data_pipelines import page
from data_pipelines.page import Html, escape


def data(meta: dict, config: ConfigDict) -> Html:
    """Each dataset against what its source lists, and what is in several of them."""
    columns = provenance.DATA_COLUMNS
    table = page.table(columns, provenance.data_rows(meta), ("trained on", "left out"), "Data")
    lines = "".join(f"<p>{escape(line)}</p>" for line in provenance.leak_lines(meta, config))
    return Html(f"{table}<h3>Leaks between validation and training sets</h3>{lines}")


def config(of_run: ConfigDict) -> Html:
    """What differs from the defaults, and, where one asks for it, all."""
    differences = page.table(provenance.CONFIG_COLUMNS, provenance.config_rows(of_run), label="Config, not at default")
    rows = ([key, provenance.in_words(value)] for key, value in config_lib.flatten(of_run))
    whole = page.table(["key", "value"], rows, label="The whole config")
    return Html(f"{differences}<details><summary>The whole config</summary>{whole}</details>")


def rollbacks(meta: dict) -> Html:
    """What the run went back from, and why."""
    past = meta.get("history", {}).get("rollbacks", [])  # checkpoints of before have none
    rows = [[one["step"], one["to_step"], one["reason"]] for one in past]
    table = page.table(["at step", "back to", "because"], rows, label="What the run went back from")
    return Html(f"<h3>What the run went back from</h3>{table}" if rows else "")


def versions(meta: dict) -> Html:
    """Of Python and packages."""
    return page.table(["package", "version"], meta["versions"].items(), label="Versions")
