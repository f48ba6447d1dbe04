"""Every key of a study: the same model trained in several settings, each from several seeds and draws of the data.

All files in configs/studies/ start from `get_config` and change values; a key that is not here does not exist.
"""

import ml_collections
from ml_collections import ConfigDict

from cover_jax.config import schema


def get_config() -> ml_collections.ConfigDict:
    """The schema with its defaults. It has no setting: every study adds at least one."""
    study = ConfigDict()
    study.run = schema.get_config()  # what all runs share; its datasets are those that settings choose from
    study.settings = ConfigDict(sort_keys=False)  # name -> setting(), in the order of the table, starts first

    # A replicate is one run of each setting. The i-th has seeds[i], and trains on draw draws[i] of the data: settings
    # are compared within replicates. Draw 0 is what settings are chosen on, and not reported on.
    study.seeds = (0, 1, 2, 3, 4)
    study.draws = (1, 2, 3, 4, 5)
    # Dataset -> examples of a draw: the n-th is train[n * examples:(n + 1) * examples]; 0: all of them, in every draw.
    study.examples_per_draw = ConfigDict()
    # Setting -> settings that it is compared with: its accuracy minus theirs, on each dataset that both validate on.
    study.differences = ConfigDict()

    study.quick_settings = ()  # what --quick is limited to: these settings, besides those that they start from,
    study.quick_replicates = 2  # in so many of the replicates
    return study


def setting(label: str, datasets: tuple[str, ...], steps: int, **changes) -> ml_collections.ConfigDict:
    """One row of the table, and how it is trained."""
    config = ConfigDict()
    config.label = label  # in the table
    config.datasets = datasets  # names in run.datasets
    config.steps = steps  # in place of run.steps
    # A setting before this one: its run of the same replicate is model.init_from. "": as run.model.init_from says.
    config.start = ""
    config.changes = ConfigDict()  # of other keys of `run`, nested as there
    config.update(changes)  # an unknown key fails at start-up
    return config
