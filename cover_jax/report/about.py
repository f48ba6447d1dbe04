"""What a run was made of: data with what it lacks and leaks, config, versions."""

from markupsafe import Markup
from ml_collections import ConfigDict

from cover_jax.checkpoint import metadata
from cover_jax.config import checks
from data_pipelines.output import html
from data_pipelines.output.html import escape


def data(meta: dict, config: ConfigDict) -> Markup:
    """Each dataset against what its source lists, and what is in several of them."""
    columns = metadata.DATA_COLUMNS
    table = html.table(columns, metadata.data_rows(meta), ("trained on", "left out"), "Data")
    lines = "".join(f"<p>{escape(line)}</p>" for line in metadata.leak_lines(meta, config))
    return Markup(f"{table}<h3>Leaks between validation and training sets</h3>{lines}")


def config(of_run: ConfigDict) -> Markup:
    """What differs from the defaults, and, where one asks for it, all."""
    differences = html.table(metadata.CONFIG_COLUMNS, metadata.config_rows(of_run), label="Config, not at default")
    rows = ([key, metadata.in_words(value)] for key, value in checks.flatten(of_run))
    whole = html.table(["key", "value"], rows, label="The whole config")
    return Markup(f"{differences}<details><summary>The whole config</summary>{whole}</details>")


def rollbacks(meta: dict) -> Markup:
    """What the run went back from, and why."""
    past = meta.get("history", {}).get("rollbacks", [])  # checkpoints of before have none
    rows = [[one["step"], one["to_step"], one["reason"]] for one in past]
    table = html.table(["at step", "back to", "because"], rows, label="What the run went back from")
    return Markup(f"<h3>What the run went back from</h3>{table}" if rows else "")


def versions(meta: dict) -> Markup:
    """Of Python and packages."""
    return html.table(["package", "version"], meta["versions"].items(), label="Versions")
