"""Does co-training help on real clips? UCF101 and ARID with CIFAR-10, from a real ViT-S/14.

    python -m data_pipelines.prepare video_folder --name=ucf101 --source=UCF101 --validation_pattern='_g0[1-7]_' \\
        --short_side_px=128
    python -m data_pipelines.prepare video_folder --name=arid --source=ARID --train_list=train.txt \\
        --validation_list=validate.txt --validation_folder=validate --list_columns=index,label,path \\
        --class_names=mapping_table_24.txt --short_side_px=128
    python -m data_pipelines.prepare image_folder --name=cifar10 --source=CIFAR10 --validation_folder=test
    python -m cover_jax.study --config=configs/studies/real.py:gpu --workdir=/tmp/real

UCF101 represents classes that are recognised by how they look (draws of 30 clips). ARID (arXiv 2006.03876), actions in
the dark, represents classes that are recognised by movement: sitting down and standing up are each other's reversal.
`:gpu` is for one GPU; `:cpu` is small enough for a CPU. For other weights of that size, use
--config.run.model.init_from=FILE. Everything here is this project's choice. cover_jax/study/RESULTS.md has the results
of the parts that were run.
"""

import dataclasses

from configs import common as run_common
from configs import datasets
from configs.studies import common

UCF101, ARID, CIFAR10 = "ucf101", "arid", "cifar10"


@dataclasses.dataclass(frozen=True)
class Size:
    """The values that differ between a CPU and a GPU."""

    steps: int
    size_px: int
    ucf101_frames: int
    images: int  # per step; they need as much compute as the clips of UCF101
    dtype: str


SIZES = {"cpu": Size(40, 56, 2, 16, "float32"), "gpu": Size(300, 112, 8, 64, "bfloat16")}


def get_config(size: str = "cpu"):
    if size not in SIZES:
        raise ValueError(f"configs/studies/real.py:{size}: {size!r} must be one of {', '.join(SIZES)}")
    study, chosen = common.get_config(), SIZES[size]
    study.run = run(chosen)
    study.examples_per_draw = {UCF101: 30, ARID: 0, CIFAR10: 0}
    for name, setting in settings(chosen.steps).items():
        study.settings[name] = setting
    study.differences = {
        "ucf101_compute": (UCF101,),
        "ucf101_images": (UCF101, "ucf101_compute"),
        "arid_dark": (ARID,),
        "arid_shuffled": (ARID,),
        "arid_one_frame": (ARID,),
        "joint": (UCF101, "ucf101_compute", ARID),
        "joint_images": (UCF101, "ucf101_compute", "ucf101_images", ARID, "joint"),
    }
    study.quick_settings = (UCF101, "ucf101_images")
    return study


def run(size: Size):
    """The common config of all runs."""
    config = run_common.get_config()
    config.plan = "joint"
    config.eval_every_steps = size.steps
    config.log_every_steps = 10
    config.input.leaks = "ignore"  # the three sources have nothing in common

    config.datasets[UCF101] = clips(UCF101, size.ucf101_frames)
    config.datasets[ARID] = clips(ARID, num_frames=8)
    config.datasets[ARID].standardize = True  # its clips are dark: the mean level is 0.07 of 1
    config.datasets[CIFAR10] = datasets.folder("image_folder/cifar10", batch_size=size.images, canvas_px=(32, 32))

    config.model.variant = "S/14"
    config.model.init_from = "hf://facebook/dinov2-small"
    config.model.pixel_mean, config.model.pixel_std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    config.model.size_px = size.size_px
    config.model.num_frames = 8
    config.model.dtype = size.dtype
    config.model.remat = "none"

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 10
    config.optimizer.weight_decay = 0.05
    config.optimizer.layer_decay = 0.75
    return config


def clips(name: str, num_frames: int):
    changes = {"augment": {"crop_range": (0.5, 1.0)}, "canvas_px": (128, 176), "num_frames": num_frames}
    return datasets.folder(f"video_folder/{name}", batch_size=8, eval_batch_size=16, **changes)


def settings(steps: int):
    """Name -> setting, in the order of the table."""
    changes = {"shuffle_frames": True}, {"num_frames": 1}, {"standardize": False}
    shuffled, one_frame, dark = ({"datasets": {ARID: change}} for change in changes)
    return {
        UCF101: common.setting("alone", (UCF101,), steps),
        "ucf101_compute": common.setting("alone, twice the steps", (UCF101,), 2 * steps),
        "ucf101_images": common.setting("alone + images", (UCF101, CIFAR10), steps),
        ARID: common.setting("alone", (ARID,), steps),
        "arid_dark": common.setting("alone, dark", (ARID,), steps, changes=dark),
        "arid_shuffled": common.setting("alone, frames shuffled", (ARID,), steps, changes=shuffled),
        "arid_one_frame": common.setting("alone, one frame", (ARID,), steps, changes=one_frame),
        "joint": common.setting("joint", (UCF101, ARID), steps),
        "joint_images": common.setting("joint + images (CoVeR)", (UCF101, ARID, CIFAR10), steps),
    }
