"""CoVeR-Ti/16: cover_b.py with a smaller model.

python -m cover_jax.main --config=configs/cover_ti.py --workdir=gs://BUCKET/cover_ti --distributed
"""

from configs import cover_b, cover_l


def get_config(argument: str = ""):
    config = cover_b.get_config(argument, "configs/cover_ti.py")
    config.model.variant = "Ti/16"
    cover_l.start_from(config, cover_l.AUGREG + "Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0.npz")
    return config
