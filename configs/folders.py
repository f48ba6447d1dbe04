"""Co-training on any number of folders of your own clips and images. Each folder is prepared first.

    python -m data_pipelines.prepare video_folder --name=ucf101 --source=/data/ucf101 --validation_pattern='_g0[1-7]_'
    python -m data_pipelines.prepare image_folder --name=cifar10 --source=/data/cifar10 --validation_folder=test
    python -m cover_jax.main --config=configs/folders.py:video_folder/ucf101,image_folder/cifar10 --workdir=/tmp/mine

Each folder gets a head with the folder's name. The sizes are for a small machine: a Ti/16 on 8 frames of 112 px,
randomly initialised. For larger runs, override: --config.model.variant=B/16 --config.model.size_px=224
--config.steps=20000. Everything here is this project's choice.
"""

import ml_collections

from configs import common, datasets


def get_config(folders: str = ""):
    """`folders`: BUILDER/NAME, ..., where BUILDER is one of datasets.FORMS."""
    config = common.get_config()
    config.steps = 2000
    config.eval_every_steps = 500
    config.checkpoint_every_steps = 500
    config.log_every_steps = 20

    config.datasets = named_datasets(folders, "configs/folders.py")

    config.model.variant = "Ti/16"
    config.model.size_px = 112
    config.model.num_frames = 8
    config.model.temporal_init = (
        "xavier"  # when training from scratch, temporal attention must learn from the first step
    )
    config.model.time_embed_std = 0.02
    config.model.dtype = "float32"
    config.model.remat = "none"

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 0.05
    return config


def named_datasets(folders: str, config_file: str) -> ml_collections.ConfigDict:
    """Name -> dataset of each folder in BUILDER/NAME, ... Error messages show `config_file`.

    Raises:
        ValueError: no folder is named, one is not a folder of clips or images, or two have the same name.
    """
    if not folders:
        raise ValueError(
            f"{config_file}: name the prepared folders, as in "
            f"--config={config_file}:video_folder/ucf101,image_folder/cifar10"
        )
    named = ml_collections.ConfigDict()
    for folder in folders.split(","):
        kind, _, name = folder.partition("/")
        if kind not in datasets.FORMS or not name:
            forms = ", ".join(f"{form}/NAME" for form in datasets.FORMS)
            raise ValueError(f"{config_file}:{folder}: must be one of {forms}")
        if name in named:
            raise ValueError(f"{config_file}:{folder}: {name!r} is named twice; heads need different names")
        batch_size = 32 if kind == "image_folder" else 8
        named[name] = datasets.folder(folder, batch_size=batch_size, eval_batch_size=16)
    return named
