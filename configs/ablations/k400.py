"""Kinetics-400 alone: see mix.py.

    python -m cover_jax.main --config=configs/ablations/k400.py \\
        --workdir=gs://BUCKET/k400 --distributed
"""

from configs.ablations import mix


def get_config():
    return mix.of("k400")
