"""Losses as (sum, count) pairs, so that examples that only pad a batch weigh nothing."""

import jax
import jax.numpy as jnp
import optax

# B batch, C classes


def weighted_cross_entropy(logits_BC: jax.Array, targets_BC: jax.Array, weight_B: jax.Array) -> tuple:
    """Softmax cross-entropy against target distributions: (weighted sum over the batch, sum of the weights)."""
    loss_B = optax.softmax_cross_entropy(logits_BC, targets_BC)
    # `where` and not a product alone: a NaN of an example without weight must not reach the sum.
    return jnp.sum(jnp.where(weight_B > 0, loss_B * weight_B, 0.0)), jnp.sum(weight_B)
