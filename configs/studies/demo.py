"""The demo against its own parts: does each of its datasets gain from the others, from scratch?

    python -m cover_jax.study --config=configs/studies/demo.py --workdir=/tmp/demo_study

Every setting takes the demo's steps, and so the same batches of each of its datasets. RESULTS.md has what came out.
"""

from configs import demo
from configs.studies import common

APPEARANCE, MOTION, IMAGES = "appearance", "motion", "images"


def get_config():
    study = common.get_config()
    study.run = demo.get_config()
    study.examples_per_draw = {APPEARANCE: 0, MOTION: 0, IMAGES: 0}
    study.seeds, study.draws = (0, 1, 2), (1, 1, 1)  # replicates differ by seed alone: all train on all there is
    steps = study.run.steps
    study.settings.appearance = common.setting("alone", (APPEARANCE,), steps)
    study.settings.motion = common.setting("alone", (MOTION,), steps)
    study.settings.images = common.setting("alone", (IMAGES,), steps)
    study.settings.joint = common.setting("joint", (APPEARANCE, MOTION), steps)
    study.settings.appearance_images = common.setting("appearance + images", (APPEARANCE, IMAGES), steps)
    study.settings.demo = common.setting("joint + images (the demo)", (APPEARANCE, MOTION, IMAGES), steps)
    study.baselines = {APPEARANCE: (APPEARANCE, "joint"), MOTION: (MOTION,), IMAGES: (IMAGES,)}
    study.quick_settings = (APPEARANCE, "appearance_images")
    return study
