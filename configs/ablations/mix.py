"""Parts of cover_l.py's mix, so that what each dataset brings can be told: every other file here is one of them.

A dataset that stays keeps the number of its steps: what is left out takes its own steps with it, and the run is shorter
by them. So two of these runs differ in what they see, and not in how often they see what they share; only that
config.input.leaks leaves more out of a larger mix. Warmup is the same share of all steps.

The video sets stand in the paper's abstract (arXiv 2112.07175), ImageNet beside them in others' tables of what it
trained on. The abstract reports for ImageNet-21K pre-training what co-training gains: K400 +2.4, K600 +2.3, SSv2 +2.3
top-1. Its ablation tables, steps and weights are not known here: all of this is this project's choice, and nobody has
run it yet. Evidence against: with leaks removed, UniFormerV2 (arXiv 2211.09552, table 6) got 85.6/86.0/75.6 on
K400/K600/K700 together and 84.4/85.0/75.8 alone.
"""

import ml_collections

from configs import cover_l


def of(*names: str, kinetics: str = "k400") -> ml_collections.ConfigDict:
    """cover_l.py with these of its datasets alone; `kinetics` is which of them its mix has."""
    config = cover_l.get_config(kinetics)
    whole = sum(dataset.weight for dataset in config.datasets.values())
    for name in set(config.datasets) - set(names):
        del config.datasets[name]
    share = sum(config.datasets[name].weight for name in names) / whole  # a name that is not in the mix fails here
    config.steps = round(config.steps * share)
    config.optimizer.warmup_steps = round(config.optimizer.warmup_steps * share)
    return config
