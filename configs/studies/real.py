"""Does co-training help on real clips? UCF101 and ARID with CIFAR-10, from a real ViT-S/14, small enough for a CPU.

    python -m data_pipelines.prepare video_folder --name=ucf101 --source=UCF101 --validation_pattern='_g0[1-7]_' \\
        --short_side_px=128
    python -m data_pipelines.prepare video_folder --name=arid --source=ARID --train_list=train.txt \\
        --validation_list=validate.txt --validation_folder=validate --list_columns=index,label,path \\
        --class_names=mapping_table_24.txt --short_side_px=128
    python -m data_pipelines.prepare image_folder --name=cifar10 --source=CIFAR10 --validation_folder=test
    python -m cover_jax.study --config=configs/studies/real.py --workdir=/tmp/real

UCF101 stands for what is told by how it looks (draws of 30 clips), ARID (arXiv 2006.03876), actions in the dark, for
what is told by movement: sitting down and standing up are each other's reversal. With other weights of that size:
--config.run.model.init_from=FILE. All of this is this project's choice. RESULTS.md has what was run of it.
"""

from configs import common as run_common
from configs import datasets
from configs.studies import common

UCF101, ARID, CIFAR10 = "ucf101", "arid", "cifar10"
STEPS = 40
# Mean and standard deviation of the 0..1 levels in ARID's training clips, measured on every tenth of 150: it is dark.
ARID_MEAN, ARID_STD = (0.07, 0.07, 0.07), (0.08, 0.08, 0.08)


def get_config():
    study = common.get_config()
    study.run = run()
    study.examples_per_draw = {UCF101: 30, ARID: 0, CIFAR10: 0}
    for name, setting in settings().items():
        study.settings[name] = setting
    study.baselines[UCF101] = (UCF101, "ucf101_compute")
    study.baselines[ARID] = (ARID, "arid_lifted")
    study.quick_settings = (UCF101, "ucf101_images")
    return study


def run():
    """What all runs share."""
    config = run_common.get_config()
    config.plan = "joint"
    config.eval_every_steps = STEPS
    config.log_every_steps = 10
    config.input.leaks = "ignore"  # three sources that have nothing in common

    config.datasets[UCF101] = clips(UCF101, num_frames=2)
    config.datasets[ARID] = clips(ARID, num_frames=8)
    config.datasets[CIFAR10] = datasets.folder("image_folder/cifar10", batch_size=16, canvas_px=(32, 32))

    config.model.variant = "S/14"
    config.model.init_from = "hf://facebook/dinov2-small"
    config.model.pixel_mean, config.model.pixel_std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    config.model.size_px = 56
    config.model.num_frames = 8
    config.model.dtype = "float32"
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


def settings():
    """Name -> setting, in the order of the table.

    Mean and deviation of pixels are the model's, of all its datasets: where ARID is trained with others it stays dark.
    """
    lifted = {"model": {"pixel_mean": ARID_MEAN, "pixel_std": ARID_STD}}
    shuffled, one_frame = ({"datasets": {ARID: change}} for change in ({"shuffle_frames": True}, {"num_frames": 1}))
    return {
        UCF101: common.setting("alone", (UCF101,), STEPS),
        # 16 images are as much work as 8 clips of two frames.
        "ucf101_compute": common.setting("alone, twice the steps", (UCF101,), 2 * STEPS),
        "ucf101_images": common.setting("alone + images", (UCF101, CIFAR10), STEPS),
        ARID: common.setting("alone", (ARID,), STEPS),
        "arid_lifted": common.setting("alone, its own brightness", (ARID,), STEPS, changes=lifted),
        "arid_shuffled": common.setting("alone, frames shuffled", (ARID,), STEPS, changes=lifted | shuffled),
        "arid_one_frame": common.setting("alone, one frame", (ARID,), STEPS, changes=lifted | one_frame),
        "joint": common.setting("joint", (UCF101, ARID), STEPS),
        "joint_images": common.setting("joint + images (CoVeR)", (UCF101, ARID, CIFAR10), STEPS),
    }
