"""Something-Something v2 alone: see mix.py.

    python -m cover_jax.main --config=configs/ablations/ssv2.py \\
        --workdir=gs://BUCKET/ssv2 --distributed
"""

from configs.ablations import mix


def get_config():
    return mix.of("ssv2")
