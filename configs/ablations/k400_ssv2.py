"""Kinetics-400 and Something-Something v2, the videos that differ most: see mix.py.

    python -m cover_jax.main --config=configs/ablations/k400_ssv2.py \\
        --workdir=gs://BUCKET/k400_ssv2 --distributed
"""

from configs.ablations import mix


def get_config():
    return mix.of("k400", "ssv2")
