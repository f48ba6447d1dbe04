"""Kinetics-400 and ImageNet, one video dataset with images: see mix.py.

    python -m cover_jax.main --config=configs/ablations/k400_imagenet.py \\
        --workdir=gs://BUCKET/k400_imagenet --distributed
"""

from configs.ablations import mix


def get_config():
    return mix.of("k400", "imagenet")
