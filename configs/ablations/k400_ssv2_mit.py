"""Kinetics-400, Something-Something v2 and Moments in Time, all videos without images: see mix.py.

    python -m cover_jax.main --config=configs/ablations/k400_ssv2_mit.py \\
        --workdir=gs://BUCKET/k400_ssv2_mit --distributed
"""

from configs.ablations import mix


def get_config():
    return mix.of("k400", "ssv2", "mit")
