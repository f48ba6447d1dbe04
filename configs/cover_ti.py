"""CoVeR-Ti/16: cover_b.py with a smaller model.

    python -m cover_jax.main --config=configs/cover_ti.py --workdir=gs://BUCKET/cover_ti --distributed
"""

from configs import cover_b


def get_config(kinetics: str = "k400"):
    config = cover_b.get_config(kinetics)
    config.model.variant = "Ti/16"
    return config
