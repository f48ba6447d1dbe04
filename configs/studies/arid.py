"""Can the order of frames be learnt from ARID? From scratch, beside what has it, after what has it.

    python -m cover_jax.study --config=configs/studies/arid.py --workdir=/tmp/arid

ARID and UCF101 are prepared as real.py says. RESULTS.md has what came out.
"""

from configs import datasets
from configs.studies import common, real
from configs.studies.real import ARID, UCF101

DIGITS = "digits_motion"  # told by the order of frames alone
STEPS = 600


def get_config():
    study = common.get_config()
    study.seeds, study.draws = (0,), (1,)
    study.run = run()
    study.examples_per_draw = {ARID: 0, UCF101: 0, DIGITS: 0}
    for name, setting in settings().items():
        study.settings[name] = setting
    study.differences = {
        ARID: ("shuffled", "one_frame"),
        "with_ucf101": (ARID,),
        "with_digits": (ARID,),
        "after_digits": (ARID,),
        "head": ("head_shuffled",),
    }
    study.quick_settings = (ARID, "shuffled")
    return study


def run():
    """What all runs share: 16 frames of 32 px, from scratch."""
    config = real.run(real.SIZES["cpu"])
    del config.datasets[real.CIFAR10]
    config.datasets[ARID].num_frames = config.datasets[UCF101].num_frames = 16
    for name in (ARID, UCF101):
        config.datasets[name].batch_size = 16
    config.datasets[DIGITS] = datasets.digits("motion", batch_size=16, num_frames=8)
    config.log_every_steps = config.eval_every_steps = 150

    config.model.init_from = ""
    config.model.variant = "mu/8"
    config.model.size_px = 32
    config.model.num_frames = 16
    config.model.temporal_init = "xavier"  # from scratch, temporal attention must learn at once
    config.model.time_embed_std = 0.5

    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 50
    config.optimizer.layer_decay = 1.0
    return config


def settings():
    """Name -> setting, in the order of the table."""
    shuffled = of_arid(shuffle_frames=True)
    large = of_arid(num_frames=8) | {"model": {"size_px": 56, "num_frames": 8}}
    strong = {"crop_range": (0.3, 1.0), "color_prob": 0.8}
    decay = {"optimizer": {"weight_decay": 0.3}}
    head_alone = {"optimizer": {"frozen": "backbone/.*", "learning_rate": 3e-3}}
    one, after = (ARID,), {"start": DIGITS}
    return {
        DIGITS: common.setting("digits' motion: the start", (DIGITS,), STEPS),
        ARID: common.setting("alone", one, STEPS),
        "shuffled": common.setting("alone, frames shuffled", one, STEPS, changes=shuffled),
        "one_frame": common.setting("alone, one frame", one, STEPS, changes=of_arid(num_frames=1)),
        "dense": common.setting("alone, frames 0.1 s apart", one, STEPS, changes=of_arid(sample_fps=10.0)),
        "large": common.setting("alone, 8 frames of 56 px", one, STEPS, changes=large),
        "strong": common.setting(
            "the same, augmented more", one, STEPS, changes=large | decay | of_arid(num_frames=8, augment=strong)
        ),
        "mixup": common.setting(
            "and mixed up", one, STEPS,
            changes=large | decay | of_arid(num_frames=8, augment=strong | {"mixup_alpha": 0.8}),
        ),
        "with_ucf101": common.setting("joint with UCF101", (ARID, UCF101), STEPS),
        "with_digits": common.setting("joint with digits' motion", (ARID, DIGITS), STEPS),
        "after_digits": common.setting("after digits' motion", one, STEPS, **after),
        "head": common.setting("after digits' motion, head alone", one, STEPS // 2, changes=head_alone, **after),
        "head_shuffled": common.setting(
            "the same, frames shuffled", one, STEPS // 2, changes=head_alone | shuffled, **after
        ),
    }  # fmt: skip


def of_arid(**keys) -> dict:
    """Changes of that dataset."""
    return {"datasets": {ARID: keys}}
