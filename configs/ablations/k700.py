"""Kinetics-700 alone: see mix.py.

    python -m cover_jax.main --config=configs/ablations/k700.py \\
        --workdir=gs://BUCKET/k700 --distributed
"""

from configs.ablations import mix


def get_config():
    return mix.of("k700", kinetics="k700")
