"""Does co-training help on real clips? UCF101, with single frames of other scenes of the same classes as images.

    python -m data_pipelines.prepare ucf101_groups --manual_dir=UCF101
    python -m data_pipelines.prepare video_folder --name=arid --source=ARID --train_list=train.txt \\
        --validation_list=validate.txt --validation_folder=validate --list_columns=index,label,path \\
        --class_names=mapping_table_24.txt --short_side_px=64
    python -m data_pipelines.prepare image_folder --name=cifar10 --source=CIFAR10 --validation_folder=test
    python -m cover_jax.study --config=configs/studies/ucf101.py --workdir=/tmp/ucf101
    python -m cover_jax.study --config=configs/studies/ucf101.py:vit --workdir=/tmp/ucf101_vit \\
        --config.run.model.init_from=FILE

Five classes of UCF101 (arXiv 1212.0402) in 18 groups for training and 7 for validation; a group is one scene. A draw
has three groups as clips. What is made of the other fifteen groups is trained beside them: single frames, clips, or
parts of clips that are labelled by how they are played. Controls are images of other classes (CIFAR-10), more steps,
and images that are seen before. ARID (arXiv 2006.03876) is another kind of video.

The first form trains a tiny model from scratch, `:vit` a ViT-S/14 from published weights. Everything here is this
project's choice. cover_jax/study/RESULTS.md has the results of the parts that were run.

The first form takes about 0.7 CPU hours, with `--quick` 5 minutes: estimated from 30 CPU seconds per run of 400 steps.
"""

import dataclasses
import math

from configs import common as run_common
from configs import datasets
from configs.studies import common

CLIPS, FRAMES, MOTION = "clips", "frames", "motion"
OTHERS = "others"  # the clips that the frames are from, with a head of their own
UNRELATED, ARID = "unrelated", "arid"
CLASSES = 5
GROUPS = 3  # per draw, of 18 for training
PER_GROUP = {CLIPS: 2 * CLASSES, OTHERS: 2 * CLASSES, FRAMES: 8 * CLASSES, MOTION: 24 * CLASSES}  # examples
SHUFFLED = {"datasets": {MOTION: {"shuffle_frames": True}}}

# Each setting is compared with its controls, and with the setting that has one dataset less.
DIFFERENCES = {
    "clips_compute": (CLIPS,),
    "before": (CLIPS,),
    "clips_frames": (CLIPS, "clips_compute", "before", "clips_unrelated"),
    "clips_unrelated": (CLIPS, "clips_compute"),
    OTHERS: (CLIPS, "clips_compute", "clips_frames"),
    "more": (CLIPS, OTHERS),
    "clips_arid": (CLIPS, "clips_compute"),
    "all": (CLIPS, "clips_compute", "before", "clips_frames", "clips_arid"),
    "clips_motion": (CLIPS, "clips_compute", MOTION),
    "motion_shuffled": (MOTION,),
}


@dataclasses.dataclass(frozen=True)
class Size:
    """The values that differ between the two models."""

    variant: str
    size_px: int
    num_frames: int
    steps: int
    learning_rate: float


SIZES = {"scratch": Size("mu/16", 32, 4, 400, 1.2e-3), "vit": Size("S/14", 56, 2, 40, 1e-4)}


def get_config(size: str = "scratch"):
    if size not in SIZES:
        raise ValueError(f"configs/studies/ucf101.py:{size}: {size!r} must be one of {', '.join(SIZES)}")
    study, chosen = common.get_config(), SIZES[size]
    study.run = run(chosen)
    study.examples_per_draw = {name: 0 for name in study.run.datasets} | {CLIPS: GROUPS * PER_GROUP[CLIPS]}
    study.left_out_per_draw = {name: GROUPS * PER_GROUP[name] for name in (OTHERS, FRAMES, MOTION)}
    for name, setting in settings(chosen.steps).items():
        study.settings[name] = setting
    study.differences = DIFFERENCES
    study.quick_settings = (CLIPS, "clips_frames")
    return study


def run(size: Size):
    """The common config of all runs."""
    config = run_common.get_config()
    config.plan = "joint"
    config.eval_every_steps = size.steps
    config.log_every_steps = 100
    config.input.leaks = "ignore"  # groups are either training or validation; the other sources have nothing in common

    video = {"batch_size": 8, "eval_batch_size": 70, "num_frames": size.num_frames}
    image = {"batch_size": 16, "eval_batch_size": 280, "num_frames": 1}
    wide, square = {"canvas_px": (64, 96)}, {"canvas_px": (32, 32)}
    if size.size_px <= 32:
        wide = {"canvas_px": (32, 48)}
    crop = {"augment": {"crop_range": (0.5, 1.0)}}
    config.datasets[CLIPS] = datasets.folder("ucf101_groups/clips", **video, **wide, **crop)
    config.datasets[CLIPS].loss_weight = 0.1  # 30 clips are memorised before anything else is learnt
    config.datasets[OTHERS] = datasets.folder("ucf101_groups/clips", **video, **wide, **crop, eval_split="")
    config.datasets[FRAMES] = datasets.folder("ucf101_groups/frames", **image, **wide, **crop)
    config.datasets[UNRELATED] = datasets.folder("image_folder/cifar10", **image, **square, **crop)
    config.datasets[ARID] = datasets.folder("video_folder/arid", **video, **wide, **crop)
    config.datasets[ARID].standardize = True  # its clips are dark: the mean level is 0.07 of 1
    config.datasets[MOTION] = datasets.folder("ucf101_groups/motion", **video, **wide, **crop)

    config.model.variant = size.variant
    config.model.size_px = size.size_px
    config.model.num_frames = size.num_frames
    config.model.dtype = "float32"
    config.model.remat = "none"
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = size.learning_rate
    config.optimizer.warmup_steps = size.steps // 6
    config.optimizer.weight_decay = 0.05
    if size.variant == "S/14":  # an image model, with its normalisation
        config.model.init_from = "hf://facebook/dinov2-small"
        config.model.pixel_mean, config.model.pixel_std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        config.optimizer.layer_decay = 0.75
    else:
        config.model.temporal_init, config.model.time_embed_std = "xavier", 0.5
    return config


def settings(steps: int):
    """Name -> setting, in the order of the table."""
    # 16 images need half as much compute as 8 clips of 4 frames, so these steps cost as much as `steps` steps of `all`.
    compute = math.ceil(2.5 * steps)
    every_group = {"datasets": {CLIPS: {"train_split": "train"}}}
    return {
        "start": common.setting("images", (FRAMES,), steps),
        CLIPS: common.setting("alone", (CLIPS,), steps),
        "clips_frames": common.setting("alone + images", (CLIPS, FRAMES), steps),
        "clips_unrelated": common.setting("alone + images of other classes", (CLIPS, UNRELATED), steps),
        "before": common.setting("alone, same images before", (CLIPS,), steps, start="start"),
        "clips_compute": common.setting("alone, compute of CoVeR", (CLIPS,), compute),
        OTHERS: common.setting("joint with clips of the images' groups", (CLIPS, OTHERS), steps),
        "more": common.setting("alone, on all groups", (CLIPS,), steps, changes=every_group),
        "clips_arid": common.setting("joint with ARID", (CLIPS, ARID), steps),
        "all": common.setting("joint with ARID + images (CoVeR)", (CLIPS, ARID, FRAMES), steps),
        MOTION: common.setting("motion alone", (MOTION,), steps),
        "motion_shuffled": common.setting("motion alone, frames shuffled", (MOTION,), steps, changes=SHUFFLED),
        "clips_motion": common.setting("joint with motion", (CLIPS, MOTION), steps),
    }
