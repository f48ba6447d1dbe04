"""CoVeR-H/14: cover_l.py with a larger model, 896.6 M parameters with heads, and the patch size of its image model.

    python -m cover_jax.main --config=configs/cover_h.py --workdir=gs://BUCKET/cover_h --distributed

Hardware: a TPU pod slice; 96 TFLOP per clip and training step (computed from the shapes). The table in
cover_jax/plan/README.md shows which slices have enough memory. The paper (arXiv 2112.07175) has no model of this size:
everything here is this project's choice, and nobody has run it yet.
"""

from configs import cover_l


def get_config(argument: str = ""):
    config = cover_l.get_config(argument, "configs/cover_h.py")
    config.model.variant = "H/14"
    cover_l.start_from(config, "hf://google/vit-huge-patch14-224-in21k")  # ImageNet-21k, arXiv 2010.11929
    return config
