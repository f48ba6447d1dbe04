"""Every key of a study: one model trained in several settings, with several seeds and data draws each.

All files in configs/studies/ start from `get_config` and change values. Only the keys in this file exist.
"""

import ml_collections
from ml_collections import ConfigDict

from cover_jax.config import schema


def get_config() -> ml_collections.ConfigDict:
    """The schema with its defaults. It has no settings: every study adds at least one."""
    study = ConfigDict()
    study.run = schema.get_config()  # base config of all runs; settings select from its datasets
    study.settings = ConfigDict(sort_keys=False)  # name -> setting(), in the order of the table, starts first

    # A replicate is one run of each setting. Replicate i has seed seeds[i] and trains on data draw draws[i]. Settings
    # are compared within replicates. Draw 0 is used to choose settings, and is not used for reported results.
    study.seeds = (0, 1, 2, 3, 4)
    study.draws = (1, 2, 3, 4, 5)
    # Dataset -> examples per draw: draw n is train[n * examples:(n + 1) * examples]; 0: all examples, in every draw.
    study.examples_per_draw = ConfigDict()
    # Dataset -> examples that each draw leaves out: draw n is all but train[n * examples:(n + 1) * examples]. For a
    # dataset that is made from what another dataset's draw does not have.
    study.left_out_per_draw = ConfigDict()
    # Setting -> settings to compare it with: its accuracy minus theirs, on each dataset that both validate on.
    study.differences = ConfigDict()

    study.quick_settings = ()  # settings of --quick, in addition to those that they start from
    study.quick_replicates = 2  # number of replicates of --quick
    return study


def setting(label: str, datasets: tuple[str, ...], steps: int, **changes) -> ml_collections.ConfigDict:
    """One row of the table, and its training config."""
    config = ConfigDict()
    config.label = label  # in the table
    config.datasets = datasets  # names in run.datasets
    config.steps = steps  # in place of run.steps
    # A setting before this one: its run of the same replicate is model.init_from. "": as run.model.init_from says.
    config.start = ""
    config.changes = ConfigDict()  # of other keys of `run`, with the same nesting
    config.update(changes)  # an unknown key fails at start-up
    return config
