"""The whole mix, with Kinetics-600: see mix.py.

    python -m cover_jax.main --config=configs/ablations/k600_ssv2_mit_imagenet.py \\
        --workdir=gs://BUCKET/k600_ssv2_mit_imagenet --distributed
"""

from configs.ablations import mix


def get_config():
    return mix.of("k600", "ssv2", "mit", "imagenet", kinetics="k600")
