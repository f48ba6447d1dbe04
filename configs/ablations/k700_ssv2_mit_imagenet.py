"""The whole mix, with Kinetics-700: see mix.py.

    python -m cover_jax.main --config=configs/ablations/k700_ssv2_mit_imagenet.py \\
        --workdir=gs://BUCKET/k700_ssv2_mit_imagenet --distributed
"""

from configs.ablations import mix


def get_config():
    return mix.of("k700", "ssv2", "mit", "imagenet", kinetics="k700")
