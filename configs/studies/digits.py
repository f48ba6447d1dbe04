"""Does co-training help? Tests the paper's claim on a small scale, with moving and still digits.

    python -m cover_jax.study --config=configs/studies/digits.py --workdir=/tmp/digits

An image model (400 steps on single digits) becomes a video model in the way of TimeSformer's authors: `temporal_fc`
starts at zero in the image model, whose training changes it only a little. Each setting trains the video model from
there. Everything here is this project's choice. cover_jax/study/RESULTS.md has the results.
"""

import math

from configs import datasets, demo
from configs.studies import common

APPEARANCE, MOTION, IMAGES = "appearance", "motion", "images"
RELATED = "related"  # other clips of the same kind and classes as appearance, with a head of their own
START_STEPS = 400  # only on images
STEPS = 150  # per setting, and per dataset of a setting: with the plan "joint" every step has all datasets

# Each setting is compared with its controls, and with the setting that has one dataset less.
DIFFERENCES = {
    "start_longer": ("start",),
    "appearance_compute": (APPEARANCE,),
    "motion_compute": (MOTION,),
    "appearance_exposure": (APPEARANCE,),
    "joint": (APPEARANCE, "appearance_compute", MOTION, "motion_compute"),
    RELATED: (APPEARANCE, "appearance_compute"),
    "related_compute": (RELATED,),
    "related_exposure": (RELATED,),
    "appearance_images": (APPEARANCE, "appearance_compute", "appearance_exposure", "start_longer"),
    "motion_images": (MOTION, "motion_compute", "start_longer"),
    "related_images": (RELATED, "related_compute", "related_exposure", "appearance_images", "start_longer"),
    "joint_images": (
        APPEARANCE, "appearance_compute", "appearance_exposure", "appearance_images",
        "joint", MOTION, "motion_compute", "motion_images", "start_longer",
    ),
}  # fmt: skip


def get_config():
    study = common.get_config()
    study.seeds = (1, 2, 3, 4, 5)  # not 0: its results were known before the settings were final (RESULTS.md)
    study.run = run()
    study.examples_per_draw = {APPEARANCE: 60, MOTION: 300, IMAGES: 0, RELATED: 0}
    for name, setting in settings().items():
        study.settings[name] = setting
    study.differences = DIFFERENCES
    study.quick_settings = (APPEARANCE, "appearance_images")
    return study


def run():
    """The common config of all runs: the demo's model and batches, starting from an image model."""
    config = demo.get_config()
    config.datasets.images.batch_size = 32
    config.datasets[RELATED] = datasets.digits("appearance", batch_size=16, eval_split="")
    config.datasets[RELATED].train_split = "train[360:]"  # beyond the draws 0 to 5
    config.eval_every_steps = 75
    config.log_every_steps = 75
    config.input.leaks = "ignore"  # all three datasets use the same division of the digits
    config.model.remat = "none"  # the model is so small that saving memory is not necessary
    config.model.temporal_init = "zeros"
    config.model.time_embed_std = 0.0  # regime.py tries 0.5
    config.optimizer.warmup_steps = 50
    return config


def settings():
    """Name -> setting, in the order of the table."""
    # As in ViT (arXiv 2010.11929), the head of the image model has a hidden layer. This head is not taken over,
    # although its classes are the same: all heads start from scratch, as they do if images and clips have different
    # classes.
    before = {"model": {"head": "mlp"}}
    after, longer = {"start": "start"}, {"start": "start_longer"}
    # 32 images need half as much compute as 16 clips. So these numbers of steps, on one dataset of clips and on two,
    # cost as much as STEPS steps on two datasets of clips and on images.
    on_one, on_two = 5 * STEPS // 2, math.ceil(5 * STEPS / 4)
    related = APPEARANCE, RELATED
    return {
        "start": common.setting("images: the start", (IMAGES,), START_STEPS, changes=before),
        "start_longer": common.setting("images: the start, longer", (IMAGES,), STEPS, changes=before, **after),
        APPEARANCE: common.setting("alone", (APPEARANCE,), STEPS, **after),
        MOTION: common.setting("alone", (MOTION,), STEPS, **after),
        "appearance_compute": common.setting("alone, compute of CoVeR", (APPEARANCE,), on_one, **after),
        "motion_compute": common.setting("alone, compute of CoVeR", (MOTION,), on_one, **after),
        "appearance_exposure": common.setting("alone, same images before", (APPEARANCE,), STEPS, **longer),
        "joint": common.setting("joint", (APPEARANCE, MOTION), STEPS, **after),
        RELATED: common.setting("joint with more of its kind", related, STEPS, **after),
        "related_compute": common.setting("more of its kind, compute of + images", related, on_two, **after),
        "related_exposure": common.setting("more of its kind, same images before", related, STEPS, **longer),
        "appearance_images": common.setting("appearance + images", (APPEARANCE, IMAGES), STEPS, **after),
        "motion_images": common.setting("motion + images", (MOTION, IMAGES), STEPS, **after),
        "related_images": common.setting("more of its kind + images", (*related, IMAGES), STEPS, **after),
        "joint_images": common.setting("joint + images (CoVeR)", (APPEARANCE, MOTION, IMAGES), STEPS, **after),
    }
