"""CoVeR-S/16, 8 frames at 224 px: the mix of cover_l.py at a size for fewer chips.

    python -m cover_jax.main --config=configs/cover_s.py --workdir=gs://BUCKET/cover_s --distributed

TimeSformer's own base setting is 8 frames at 224 px (arXiv 2102.05095); everything else is as in cover_l.py, this
project's choice, and so far without a result.
"""

from configs import cover_l


def get_config(kinetics: str = "k400"):
    config = cover_l.get_config(kinetics)
    for name in (kinetics, "ssv2", "mit"):
        config.datasets[name].num_frames = 8
    config.model.variant = "S/16"
    config.model.size_px = 224
    config.model.num_frames = 8
    config.mesh.fsdp = 1
    return config
