"""CoVeR-S/16: cover_b.py with a smaller model.

python -m cover_jax.main --config=configs/cover_s.py --workdir=gs://BUCKET/cover_s --distributed
"""

from configs import cover_b, cover_l


def get_config(argument: str = ""):
    config = cover_b.get_config(argument, "configs/cover_s.py")
    config.model.variant = "S/16"
    cover_l.start_from(config, cover_l.AUGREG + "S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0.npz")
    return config
