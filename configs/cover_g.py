"""CoVeR-g/14: cover_l.py with a larger model, 1.41 B parameters with heads, randomly initialised.

    python -m cover_jax.main --config=configs/cover_g.py --workdir=gs://BUCKET/cover_g --distributed

Hardware: a TPU pod slice; 150 TFLOP per clip and training step (computed from the shapes). The table in
cover_jax/plan/README.md shows which slices have enough memory. The paper (arXiv 2112.07175) has no model of this size:
everything here is this project's choice, and nobody has run it yet.
Image weights of this size (arXiv 2106.04560) are not public. To use your own, set config.model.init_from,
config.model.temporal_init=zeros and config.model.time_embed_std=0.
"""

from configs import cover_l


def get_config(argument: str = ""):
    config = cover_l.get_config(argument, "configs/cover_g.py")
    config.model.variant = "g/14"
    cover_l.start_from(config, "")
    config.model.temporal_init = "xavier"
    config.model.time_embed_std = 0.02  # as for the other embeddings
    return config
