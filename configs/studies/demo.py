"""Compares the demo with its parts: does each of its datasets gain from the others, when trained from scratch?

    python -m cover_jax.study --config=configs/studies/demo.py --workdir=/tmp/demo_study
    python -m cover_jax.study --config=configs/studies/demo.py:few --workdir=/tmp/few_study

All settings have the same number of steps, and so the same batches of each of their datasets. `:few` has twice the
demo's steps on few clips of each kind: then motion is learnt, and no dataset has reached its best accuracy yet. It has
two controls: equal compute, by more steps, and equal exposure, by images that are seen before.
cover_jax/study/RESULTS.md has the results.
"""

from configs import datasets, demo
from configs.studies import common

APPEARANCE, MOTION, IMAGES = "appearance", "motion", "images"
RELATED = "related"  # other clips of the same kind as motion, with a head of their own


def get_config(clips: str = "all"):
    if clips not in ("all", "few"):
        raise ValueError(f"configs/studies/demo.py:{clips}: {clips!r} must be one of all, few")
    study = common.get_config()
    study.run = demo.get_config()
    study.examples_per_draw = {APPEARANCE: 0, MOTION: 0, IMAGES: 0}
    study.seeds, study.draws = (0, 1, 2), (1, 1, 1)  # replicates differ only in the seed: all train on all the data
    steps = study.run.steps
    study.settings.appearance = common.setting("alone", (APPEARANCE,), steps)
    study.settings.motion = common.setting("alone", (MOTION,), steps)
    study.settings.images = common.setting("alone", (IMAGES,), steps)
    study.settings.joint = common.setting("joint", (APPEARANCE, MOTION), steps)
    study.settings.appearance_images = common.setting("appearance + images", (APPEARANCE, IMAGES), steps)
    study.settings.demo = common.setting("joint + images (the demo)", (APPEARANCE, MOTION, IMAGES), steps)
    study.differences = {
        "joint": (APPEARANCE, MOTION),
        "appearance_images": (APPEARANCE, IMAGES),
        "demo": (APPEARANCE, MOTION, IMAGES, "joint", "appearance_images"),
    }
    study.quick_settings = (APPEARANCE, "appearance_images")
    return _on_few_clips(study) if clips == "few" else study


def _on_few_clips(study):
    study.examples_per_draw = {APPEARANCE: 100, MOTION: 150, IMAGES: 0, RELATED: 0}
    study.seeds = study.draws = (1, 2, 3, 4, 5)
    study.run.datasets[RELATED] = datasets.digits("motion", batch_size=16, eval_split="")
    study.run.datasets[RELATED].train_split = "train[900:]"  # beyond the draws 0 to 5
    # 64 images need as much compute as 16 clips. So this number of steps on two datasets of clips costs as much as
    # `steps` steps on all datasets.
    steps, on_two = study.run.steps, 3 * study.run.steps // 2
    clips = APPEARANCE, MOTION
    images_before = {"start": IMAGES}
    study.settings.related = common.setting("joint with more of its kind", (MOTION, RELATED), steps)
    study.settings.joint_compute = common.setting("joint, compute of the demo", clips, on_two)
    study.settings.joint_exposure = common.setting("joint, same images before", clips, steps, **images_before)
    study.settings.appearance_exposure = common.setting(
        "alone, same images before", (APPEARANCE,), steps, **images_before
    )
    study.differences[RELATED] = (MOTION, "joint")
    study.differences["appearance_images"] += ("appearance_exposure",)
    study.differences["demo"] += ("joint_compute", "joint_exposure")
    for setting in study.settings.values():
        setting.steps *= 2
    return study
