"""Linear and attentive probes on a frozen backbone, several learning rates side by side.

    python -m data_pipelines.prepare video_folder --name=mine --source=/data/mine --validation_share=0.2
    python -m cover_jax.main --config=configs/probe.py:video_folder/mine --workdir=/tmp/probe \\
        --config.model.init_from=hf://facebook/dinov2-small --config.model.variant=S/14

The argument is BUILDER/NAME[,KIND...][,RATE...]: kinds of heads (linear and attentive) and factors on
config.optimizer.learning_rate (3, 1, 0.3). Each pair is one head, such as `linear_lr1` or `attentive_lr0_3`. The heads
do not influence each other: the backbone is frozen and gradients are not clipped together. All read the same clips,
which are decoded once and pass the backbone once (config.datasets.NAME.same_clips_as). Each evaluation names the best
head, and the best checkpoint is that of the best head (config.best_metric="best_top1"). A dataset's key, such as
--config.datasets.linear_lr3.num_frames=4, may be set of any of them: the others follow, but for `head`.

AdamW and its rates of 1e-4 to 5e-3 follow V-JEPA 2's probes (multihead_kwargs in facebookresearch/vjepa2,
configs/eval/vitl/k400.yaml), which also take the best of several heads on the validation set. It has four blocks per
probe, the default here. The rest is this project's choice.
"""

import itertools
from collections.abc import Collection

from ml_collections import ConfigDict, config_dict

from configs import common, folders

KINDS, RATES = ("linear", "attentive"), (3.0, 1.0, 0.3)


def get_config(named: str = "", config_file: str = "configs/probe.py"):
    """Makes the config; `named` as above. `config_file` is shown in error messages."""
    builder, *rest = named.split(",")
    kinds = [one for one in rest if one in KINDS] or KINDS
    try:
        rates = [float(one) for one in rest if one not in KINDS] or RATES
    except ValueError:
        raise ValueError(
            f"--config={config_file}:{named}: after BUILDER/NAME must come {', '.join(KINDS)} or numbers"
        ) from None
    config = common.get_config()
    config.steps = 500
    config.eval_every_steps = config.checkpoint_every_steps = 100
    config.log_every_steps = 20
    config.plan = "joint"

    ((_, dataset),) = folders.named_datasets(builder, config_file).items()
    dataset.augment.crop_range = (0.5, 1.0)
    names: list[str] = []
    for kind, rate in itertools.product(kinds, rates):
        name = f"{kind}_lr{rate:g}".replace(".", "_").replace("-", "_")
        names.append(name)
        config.datasets[name] = dataset if len(names) == 1 else _follower(dataset, names[0])
        config.datasets[name].head.kind = kind
        config.datasets[name].head.learning_rate_scale = rate
    config.best_metric = "best_top1"

    config.model.variant = "B/16"
    config.model.init_from = config_dict.placeholder(str)  # must be given
    config.model.size_px = 224
    config.model.num_frames = 8

    config.optimizer.frozen = "backbone/.*"
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.01
    config.optimizer.clip_norm = 0.0  # one norm over all heads would connect them
    return config


def _follower(dataset: ConfigDict, name: str) -> ConfigDict:
    """A dataset with a head of its own on the clips of `dataset`. Its other values follow: set one, and all have it."""
    follower = _references(dataset, but=("head", "same_clips_as"))
    follower.head = dataset.head.copy_and_resolve_references()
    follower.same_clips_as = name
    return follower


def _references(group: ConfigDict, but: Collection[str] = ()) -> ConfigDict:
    values = {
        key: _references(value) if isinstance(value, ConfigDict) else group.get_ref(key)
        for key, value in group.items()
        if key not in but
    }
    return ConfigDict(values)
