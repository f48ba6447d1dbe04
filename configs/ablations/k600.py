"""Kinetics-600 alone: see mix.py.

    python -m cover_jax.main --config=configs/ablations/k600.py \\
        --workdir=gs://BUCKET/k600 --distributed
"""

from configs.ablations import mix


def get_config():
    return mix.of("k600", kinetics="k600")
