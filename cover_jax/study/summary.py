"""The results of a study: its table, as text and as JSON, and its plots."""

import collections
import dataclasses
import json
import pathlib

from ml_collections import ConfigDict

from cover_jax.study import plots, table


def write(study: ConfigDict, found: list[dict], workdir: pathlib.Path, prefix: str = "") -> str:
    """Writes table and plots of the results to files with the name prefix `prefix`. Returns the table as text."""
    of_datasets = table.tables(study, found)
    examples = {name: len(hits) for result in found for name, hits in result["hits"].items()}
    power = "".join(f"{line}\n" for line in table.power_lines(study, of_datasets))
    text = f"{table.markdown(study, of_datasets, examples)}\n\n{power}{_versions(found)}"
    rows = {name: [dataclasses.asdict(row) for row in rows] for name, rows in of_datasets.items()}
    curves = {name: plots.means_by_step(found, name) for name in of_datasets}
    for name, content in {
        "table.md": text + "\n",
        "table.json": json.dumps(rows, indent=1),
        "accuracy.svg": plots.accuracies(of_datasets),
        "curves.svg": plots.learning_curves(study, curves),
    }.items():
        (workdir / f"{prefix}{name}").write_text(content)
    return text


def _versions(found: list[dict]) -> str:
    """The versions of the runs, with the number of runs per combination."""
    runs = collections.Counter(", ".join(f"{name} {v}" for name, v in result["versions"].items()) for result in found)
    return "\n".join(f"{count} runs with {versions}" for versions, count in runs.items())
