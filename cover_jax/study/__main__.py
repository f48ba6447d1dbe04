"""Trains a study and prints its table: does co-training help, on these datasets, from this start?

    python -m cover_jax.study --config=configs/studies/digits.py --workdir=/tmp/digits

WORKDIR/runs has every run; WORKDIR/table.md, table.json, accuracy.svg and curves.svg what they come to. Started again
it goes on: a run that has its results.json is not repeated, one that was killed goes on from its checkpoint.
"""

import dataclasses
import json
import pathlib
import sys
import time

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from cover_jax import config as config_lib
from cover_jax import exit_codes
from cover_jax.study import execute, plan, plots, results, table

_CONFIG = config_flags.DEFINE_config_file("config", help_string="A file of configs/studies/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for runs, table and plots; local.")
_WORKERS = flags.DEFINE_integer("workers", 2, "Runs beside each other, each with its share of the cores.", 1)
_QUICK = flags.DEFINE_bool("quick", False, "Only the study's quick settings and replicates: its clearest effect.")
_SETTINGS = flags.DEFINE_list("settings", [], "Only these settings, and those that they start from. Without it: all.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    """The command."""
    if len(argv) > 1:
        raise app.UsageError(f"arguments that are no flags: {' '.join(argv[1:])}")
    workdir = pathlib.Path(_WORKDIR.value).expanduser().resolve()
    try:
        study = plan.only(_CONFIG.value, _SETTINGS.value) if _SETTINGS.value else _CONFIG.value
        study = plan.quick(study) if _QUICK.value else study
        found = _results(plan.runs(study, workdir), workdir, _WORKERS.value)
    except config_lib.ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(exit_codes.CONFIG)
    except execute.RunFailedError as error:
        sys.exit(str(error))
    print(write(study, found, workdir))


def _results(runs: list[plan.Run], workdir: pathlib.Path, workers: int) -> list[dict]:
    """The results of all runs, in their order; those that have none yet are trained first."""
    missing = [run for run in runs if results.load(run) is None]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them done before, in {workdir}", flush=True)
    start = time.perf_counter()
    for number, run in enumerate(execute.all_of(missing, workdir, workers), 1):
        found = results.load(run)
        accuracies = ", ".join(f"{name} {top1:.1%}" for name, top1 in found["top1"].items())
        took = f"{found['seconds']:.0f} s; {number} of {len(missing)} after {time.perf_counter() - start:.0f} s"
        print(f"{run}: {accuracies} ({took})", flush=True)
    return [results.load(run) for run in runs]


def write(study: ConfigDict, found: list[dict], workdir: pathlib.Path) -> str:
    """Writes table and plots of the results; returns the table as text."""
    of_datasets = table.tables(study, found)
    examples = {name: count for result in found for name, count in result["examples"].items()}
    text = table.markdown(study, of_datasets, examples)
    rows = {name: [dataclasses.asdict(row) for row in rows] for name, rows in of_datasets.items()}
    curves = {name: plots.means_by_step(found, name) for name in of_datasets}
    for name, content in {
        "table.md": text + "\n",
        "table.json": json.dumps(rows, indent=1),
        "accuracy.svg": plots.accuracies(of_datasets),
        "curves.svg": plots.learning_curves(study, curves),
    }.items():
        (workdir / name).write_text(content)
    return text


if __name__ == "__main__":
    app.run(main)
