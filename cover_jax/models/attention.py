"""Multi-head self-attention along one axis of a clip's tokens: over its frames, or within each frame."""

# B batch, T frames, S tokens of a frame, C = 3 * D packed query, key and value, D width, H heads, K head_dim

from typing import Literal

import jax
import jax.numpy as jnp
from einops import rearrange

# axis -> (query and key to scores, probabilities and value to output); the other axis is one more batch axis
_EINSUMS = {
    "time": ("bqshk,btshk->bshqt", "bshqt,btshk->bqshk"),
    "space": ("btqhk,btshk->bthqs", "bthqs,btshk->btqhk"),
}


def attend(qkv_BTSC: jax.Array, num_heads: int, axis: Literal["time", "space"]) -> jax.Array:
    """Softmax attention (arXiv 1706.03762, section 3.2) of each token to those that share its position or its frame.

    Args:
      qkv_BTSC: projected tokens, the channels ordered (query, key, value), (head), (head_dim).
      num_heads: heads; divides the width.
      axis: "time": over the frames, at each position. "space": over the tokens, in each frame.

    Returns:
      [B, T, S, D] in the input's dtype. Scores and their softmax are float32 whatever that is.
    """
    to_scores, to_output = _EINSUMS[axis]
    q_BTSHK, k_BTSHK, v_BTSHK = rearrange(qkv_BTSC, "b t s (c h k) -> c b t s h k", c=3, h=num_heads)
    scores = jnp.einsum(to_scores, q_BTSHK, k_BTSHK, preferred_element_type=jnp.float32)
    probs = jax.nn.softmax(scores * q_BTSHK.shape[-1] ** -0.5, axis=-1).astype(v_BTSHK.dtype)
    return rearrange(jnp.einsum(to_output, probs, v_BTSHK), "b t s h k -> b t s (h k)")
