"""Co-training on a small scale: moving and still digits, on a laptop's CPU.

    python -m cover_jax.main --config=configs/demo.py --workdir=/tmp/cover_demo
    python -m cover_jax.main --config=configs/demo.py:appearance --workdir=/tmp/cover_alone

The first command trains on all three datasets together. The second trains the same model for as many steps on one
dataset alone. Everything here is this project's choice.
"""

from configs import common, datasets

BATCH_SIZES = {"appearance": 16, "motion": 16, "images": 64}  # dataset -> examples per step


def get_config(names: str = ",".join(BATCH_SIZES)):
    config = common.get_config()
    config.steps = 500
    config.plan = "joint"  # each step uses all three datasets, so there is one compilation
    config.log_every_steps = 50
    config.eval_every_steps = 250
    config.checkpoint_every_steps = 125

    for name in names.split(","):
        if name not in BATCH_SIZES:
            raise ValueError(f"configs/demo.py:{names}: {name!r} must be one of {', '.join(BATCH_SIZES)}")
        config.datasets[name] = datasets.digits(name, batch_size=BATCH_SIZES[name])

    config.model.variant = "mu/4"
    config.model.size_px = 16
    config.model.num_frames = 4
    config.model.temporal_init = (
        "xavier"  # when training from scratch, temporal attention must learn from the first step
    )
    config.model.time_embed_std = 0.5
    config.model.dtype = "float32"

    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1.2e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 0.05
    return config
