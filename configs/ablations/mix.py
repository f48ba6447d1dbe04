"""Parts of cover_l.py's mix, to measure what each dataset adds. Every other file in this folder is one such part.

A dataset that stays in the mix keeps its number of steps. The steps of a removed dataset are removed with it, so the
run is shorter. Two of these runs differ in the datasets that they see, but not in how often they see a shared dataset.
The only exception: config.input.leaks excludes more examples from a larger mix. Warmup is the same share of all steps.

The paper's abstract (arXiv 2112.07175) names the video datasets; tables in other papers also list ImageNet as training
data of CoVeR. For ImageNet-21K pre-training the abstract reports these gains of co-training: K400 +2.4, K600 +2.3, SSv2
+2.3 top-1. The paper's ablation tables, steps and weights are not known here. So everything here is this project's
choice, and nobody has run it yet. Other evidence is mixed: with leaks removed, UniFormerV2 (arXiv 2211.09552, table 6)
got 85.6/86.0/75.6 on K400/K600/K700 together and 84.4/85.0/75.8 alone.
"""

import ml_collections

from configs import cover_l


def of(*names: str, kinetics: str = "k400") -> ml_collections.ConfigDict:
    """cover_l.py with only the named datasets; `kinetics` selects the Kinetics dataset of its mix."""
    config = cover_l.get_config(kinetics)
    whole = sum(dataset.weight for dataset in config.datasets.values())
    for name in set(config.datasets) - set(names):
        del config.datasets[name]
    share = sum(config.datasets[name].weight for name in names) / whole  # a name that is not in the mix fails here
    config.steps = round(config.steps * share)
    config.optimizer.warmup_steps = round(config.optimizer.warmup_steps * share)
    return config
