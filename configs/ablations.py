"""Parts of cover_l.py's mix, to measure what each dataset adds.

    python -m cover_jax.main --config=configs/ablations.py:k400_ssv2 --workdir=gs://BUCKET/k400_ssv2 --distributed

The argument is the names of the datasets, joined by _: one of k400, k600 and k700 at most, ssv2, mit, imagenet. Words
of cover_l.py may follow after commas, as in `k400_ssv2_mit,mit339`. These parts answer the usual questions:

    k400, k600, k700, ssv2                  one dataset alone
    k400_imagenet                           one video dataset with images
    k400_ssv2                               the two video datasets that differ most
    k400_ssv2_mit                           all videos, without images
    k400_ssv2_mit_imagenet (k600, k700)     the whole mix

A dataset that stays in the mix keeps its number of steps. The steps of a removed dataset are removed with it, so the
run is shorter. Two of these runs differ in the datasets that they see, but not in how often they see a shared dataset.
The only exception: config.input.leaks excludes more examples from a larger mix. Warmup is the same share of all steps.

The paper's abstract (arXiv 2112.07175) names the video datasets; tables in other papers also list ImageNet as training
data of CoVeR. For ImageNet-21K pre-training the abstract reports these gains of co-training: K400 +2.4, K600 +2.3, SSv2
+2.3 top-1. The paper's ablation tables, steps and weights are not known here. So everything here is this project's
choice, and nobody has run it yet. Other evidence is mixed: with leaks removed, UniFormerV2 (arXiv 2211.09552, table 6)
got 85.6/86.0/75.6 on K400/K600/K700 together and 84.4/85.0/75.8 alone.
"""

from configs import cover_l


def get_config(argument: str = ""):
    part, *words = argument.split(",")
    names = part.split("_")
    kinetics = [name for name in names if name in cover_l.KINETICS]
    config = cover_l.get_config(",".join([*kinetics, *words]), "configs/ablations.py")
    if unknown := set(names) - set(config.datasets):
        right = f"some of {', '.join(config.datasets)}, joined by _, such as k400_ssv2"
        raise ValueError(f"configs/ablations.py:{argument}: {', '.join(sorted(unknown)) or 'nothing'}: must be {right}")
    whole = sum(dataset.weight for dataset in config.datasets.values())
    for name in set(config.datasets) - set(names):
        del config.datasets[name]
    share = sum(dataset.weight for dataset in config.datasets.values()) / whole
    config.steps = round(config.steps * share)
    config.optimizer.warmup_steps = round(config.optimizer.warmup_steps * share)
    return config
