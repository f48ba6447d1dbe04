"""CoVeR-S/16: cover_b.py with a smaller model.

    python -m cover_jax.main --config=configs/cover_s.py --workdir=gs://BUCKET/cover_s --distributed
"""

from configs import cover_b


def get_config(kinetics: str = "k400"):
    config = cover_b.get_config(kinetics)
    config.model.variant = "S/16"
    return config
