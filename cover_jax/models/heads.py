"""Classification heads: CLS features to one dataset's logits, in float32."""

# B batch, D width

import jax
import jax.numpy as jnp
from flax import nnx

from cover_jax.models.timesformer import ZEROS, linear


def logits_layer(axis: str, width: int, num_classes: int, rngs: nnx.Rngs) -> nnx.Linear:
    """Zero at the start, so that all classes are equal: big_vision, models/vit.py, `head_zeroinit`; PolyViT's heads.

    Full precision, because by default a TPU rounds the factors of a float32 product to bfloat16.
    """
    highest = jax.lax.Precision.HIGHEST
    sizes = (width, num_classes)
    return linear((axis, "classes"), sizes, dtype=jnp.float32, rngs=rngs, kernel_init=ZEROS, precision=highest)


def linear_head(width: int, num_classes: int, rngs: nnx.Rngs) -> nnx.Linear:
    """Features [B, D] to logits [B, num_classes]."""
    return logits_layer("embed", width, num_classes, rngs)


class MlpHead(nnx.Module):
    """One hidden tanh layer of the model's width before the logits: ViT's pre-training head (arXiv 2010.11929)."""

    def __init__(self, width: int, num_classes: int, rngs: nnx.Rngs):
        highest = jax.lax.Precision.HIGHEST
        self.pre_logits = linear(("embed", "mlp"), (width, width), dtype=jnp.float32, rngs=rngs, precision=highest)
        self.logits = logits_layer("mlp", width, num_classes, rngs)

    def __call__(self, features_BD: jax.Array) -> jax.Array:
        """Features [B, D] to logits [B, num_classes]."""
        return self.logits(jnp.tanh(self.pre_logits(features_BD)))


HEADS = {"linear": linear_head, "mlp": MlpHead}
