"""The whole mix, with Kinetics-400: see mix.py.

    python -m cover_jax.main --config=configs/ablations/k400_ssv2_mit_imagenet.py \\
        --workdir=gs://BUCKET/k400_ssv2_mit_imagenet --distributed
"""

from configs.ablations import mix


def get_config():
    return mix.of("k400", "ssv2", "mit", "imagenet")
