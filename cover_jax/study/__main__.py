"""Trains a study and prints its table: does co-training help, on these datasets, from this start?

    python -m cover_jax.study --config=configs/studies/digits.py --workdir=/tmp/digits

WORKDIR/runs has every run; WORKDIR/table.md, table.json, accuracy.svg and curves.svg what they come to, of a part of
the study part_table.md and so on. Started again it goes on: a run that has its results.json is not repeated, one that
was killed goes on from its checkpoint.
"""

import pathlib
import sys

from absl import app, flags
from ml_collections import config_flags

from cover_jax import errors
from cover_jax.config import flags as cover_flags
from cover_jax.errors import ConfigError
from cover_jax.study import design, execute, summary

_CONFIG = config_flags.DEFINE_config_file("config", help_string="A file of configs/studies/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for runs, table and plots; local.")
_WORKERS = flags.DEFINE_integer("workers", 2, "Runs beside each other, each with its share of the cores.", 1)
_QUICK = flags.DEFINE_bool("quick", False, "Only the study's quick settings and replicates: one effect, soon.")
_SETTINGS = flags.DEFINE_list("settings", [], "Only these settings, and those that they start from. Without it: all.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    """The command."""
    if len(argv) > 1:
        raise app.UsageError(f"arguments that are no flags: {' '.join(argv[1:])}")
    study, workdir = _CONFIG.value, pathlib.Path(_WORKDIR.value).expanduser().resolve()
    try:
        if "://" in _WORKDIR.value:
            raise ConfigError(f"--workdir={_WORKDIR.value}: must be a local folder")
        design.check(study)
        study = design.only(study, _SETTINGS.value) if _SETTINGS.value else study
        study = design.quick(study) if _QUICK.value else study
        found = execute.results_of(design.runs(study, workdir), workdir, _WORKERS.value)
        part = "part_" if _SETTINGS.value or _QUICK.value else ""
        print(summary.write(study, found, workdir, part))
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(errors.CONFIG)
    except execute.RunFailedError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    app.run(main, flags_parser=cover_flags.parse_flags)
