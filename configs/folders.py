"""Co-training on folders of your own clips and images, any number of them, each prepared first:

    python -m data_pipelines.prepare video_folder --name=ucf101 --source=/data/ucf101 --validation_pattern='_g0[1-7]_'
    python -m data_pipelines.prepare image_folder --name=cifar10 --source=/data/cifar10 --validation_folder=test
    python -m cover_jax.main --config=configs/folders.py:video_folder/ucf101,image_folder/cifar10 --workdir=/tmp/mine

One head each, named after the folder. Sized for a small machine: a Ti/16 on 8 frames of 112 px from random
initialisation. For more, override: --config.model.variant=B/16 --config.model.size_px=224 --config.steps=20000.
Everything here is this project's choice.
"""

from configs import common, datasets


def get_config(folders: str = ""):
    """`folders`: BUILDER/NAME, ..., where BUILDER is video_folder or image_folder."""
    if not folders:
        raise ValueError(
            "configs/folders.py: name the prepared folders, as in "
            "--config=configs/folders.py:video_folder/ucf101,image_folder/cifar10"
        )
    config = common.get_config()
    config.steps = 2000
    config.eval_every_steps = 500
    config.checkpoint_every_steps = 500
    config.log_every_steps = 20

    for folder in folders.split(","):
        kind, _, name = folder.partition("/")
        if kind not in ("video_folder", "image_folder") or not name:
            raise ValueError(f"configs/folders.py:{folder}: must be video_folder/NAME or image_folder/NAME")
        if name in config.datasets:
            raise ValueError(f"configs/folders.py:{folder}: {name!r} is there twice; heads need different names")
        batch_size = 8 if kind == "video_folder" else 32
        config.datasets[name] = datasets.folder(folder, batch_size=batch_size, eval_batch_size=16)

    config.model.variant = "Ti/16"
    config.model.size_px = 112
    config.model.num_frames = 8
    config.model.temporal_init = "xavier"  # from scratch, temporal attention must learn at once
    config.model.time_embed_std = 0.02
    config.model.dtype = "float32"
    config.model.remat = "none"

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 0.05
    return config
