"""Does co-training help? The paper's claim in small, on digits that move and digits that stand still.

    python -m cover_jax.study --config=configs/studies/digits.py --workdir=/tmp/digits

An image model (400 steps on single digits) becomes a video model as TimeSformer's authors do it: `temporal_fc` begins
at zero, in the image model, which trains it but a little. The video model is trained in each setting from there.
Everything here is this project's choice. cover_jax/study/RESULTS.md has what came out.
"""

import math

from configs import datasets, demo
from configs.studies import common

APPEARANCE, MOTION, IMAGES = "appearance", "motion", "images"
RELATED = "related"  # other clips of appearance's kind and classes, with a head of their own
START_STEPS = 400  # on images alone
STEPS = 150  # of each setting, and so on each of its datasets: with the plan "joint" every step has all of them

# Each setting against its controls, and against what it adds one dataset to.
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
    study.seeds = (1, 2, 3, 4, 5)  # not 0: it was seen before the settings were final (RESULTS.md)
    study.run = run()
    study.examples_per_draw = {APPEARANCE: 60, MOTION: 300, IMAGES: 0, RELATED: 0}
    for name, setting in settings().items():
        study.settings[name] = setting
    study.differences = DIFFERENCES
    study.quick_settings = (APPEARANCE, "appearance_images")
    return study


def run():
    """What all runs share: the demo's model and batches, begun as an image model."""
    config = demo.get_config()
    config.datasets.images.batch_size = 32
    config.datasets[RELATED] = datasets.digits("appearance", batch_size=16, eval_split="")
    config.datasets[RELATED].train_split = "train[360:]"  # beyond the draws 0 to 5
    config.eval_every_steps = 75
    config.log_every_steps = 75
    config.input.leaks = "ignore"  # the digits are divided once, for all three
    config.model.remat = "none"  # so small a model needs no memory saved
    config.model.temporal_init = "zeros"
    config.model.time_embed_std = 0.0  # regime.py tries 0.5
    config.optimizer.warmup_steps = 50
    return config


def settings():
    """Name -> setting, in the order of the table."""
    # As ViT's authors have it (arXiv 2010.11929), the start's head has a hidden layer. It is not taken over, though its
    # classes are the same: all heads begin anew, as they do where images and clips have different classes.
    before = {"model": {"head": "mlp"}}
    after, longer = {"start": "start"}, {"start": "start_longer"}
    # 32 images are half as much work as 16 clips. So these steps, on one dataset of clips and on two, are as much as
    # STEPS on two and on images.
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
