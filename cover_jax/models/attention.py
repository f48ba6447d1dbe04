"""Multi-head self-attention along one axis of a clip's tokens: over its frames, or within each frame.

Three forms compute the same result: einsum, the readable reference that runs everywhere; a Pallas kernel on TPU; and
cuDNN's kernel on GPU. `choose` selects the form. Other forms are added by name: cover_jax/EXTENDING.md.
"""

# B batch, T frames, S tokens of a frame, C = 3 * D packed query, key and value, D width, H heads, K head_dim

import dataclasses
import functools
import pkgutil
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeGuard

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding

from cover_jax.models import registry
from cover_jax.models.kernels import divided_attention
from cover_jax.models.kernels.divided_attention import Axis

EXACT = ("auto", "einsum", "fused")  # values of config.model.attention that compute the same
FORMS = (*EXACT, *registry.ATTENTION)
OUTPUT_NAME = divided_attention.OUTPUT_NAME  # name of every form's result, for jax.checkpoint_policies

# axis -> (query and key to scores, probabilities and value to output); the other axis is one more batch axis
_EINSUMS: dict[Axis, tuple[str, str]] = {
    "time": ("bqshk,btshk->bshqt", "bshqt,btshk->bqshk"),
    "space": ("btqhk,btshk->bthqs", "bthqs,btshk->btqhk"),
}


class AttentionForm(Protocol):
    """The interface of a form of attention. `Attend` documents the methods."""

    def order_columns(self, projection: jax.Array) -> jax.Array:
        """A projection's kernel or bias, with its columns in the order that this form reads."""

    def __call__(self, qkv_BTSC: jax.Array, axis: Axis) -> jax.Array:
        """Attention along one axis."""


class OwnForm(AttentionForm, Protocol):
    """A form that computes something else than `attend`: a class of `registry.ATTENTION`.

    It is made with (num_heads, head_dim). Its parameters are those of every form, so the kernel of the projection is
    ordered (query, key, value), (head), (head_dim), and `order_columns` returns it unchanged.
    """

    def probabilities(self, qkv_BTSC: jax.Array, axis: Axis) -> jax.Array:
        """The mean over heads of its float32 probabilities, [B, S, T, T] ("time") or [B, T, S, S] ("space")."""

    def keys_per_query(self, axis: Axis, length: int) -> float:
        """How many of the `length` tokens along an axis a token attends to, on average; for the count of operations."""


def own_form(name: str, num_heads: int, head_dim: int) -> OwnForm | None:
    """The form of `registry.ATTENTION` with this name; None for one of `EXACT`."""
    if name not in registry.ATTENTION:
        return None
    form: OwnForm = pkgutil.resolve_name(registry.ATTENTION[name])(num_heads, head_dim)
    return form


@dataclasses.dataclass(frozen=True)
class Attend:
    """One form of attention.

    Attributes:
        form: "einsum", "pallas" or "cudnn".
        num_heads: number of heads; divides the width.
        head_dim: channels per head.
        sharding: of [B, T, S, C] arrays: the kernel runs on each device's own part. None: it runs on one device.
        interpret: run the kernel as plain JAX operations.
    """

    form: Literal["einsum", "pallas", "cudnn"]
    num_heads: int
    head_dim: int
    sharding: NamedSharding | None = None
    interpret: bool = False

    def order_columns(self, projection: jax.Array) -> jax.Array:
        """A projection's kernel or bias [..., C], with its columns in the order that this form reads.

        Checkpoints have one order: (query, key, value), (head), (head_dim). The Pallas kernel needs an order by tiles.
        """
        if self.form != "pallas":
            return projection
        tile = divided_attention.tile_lanes(self._local_heads, self.head_dim)
        # Without the barrier, the compiler may reorder a clip's tokens to compute the gradient, not the gradient.
        ordered: jax.Array = jax.lax.optimization_barrier(
            rearrange(projection, "... (c t w) -> ... (t c w)", c=3, w=tile)
        )
        return ordered

    def __call__(self, qkv_BTSC: jax.Array, axis: Axis) -> jax.Array:
        """Softmax attention of each token to the tokens at its position ("time") or in its frame ("space").

        Args:
            qkv_BTSC: projected tokens; `order_columns` has ordered the columns of the projection's kernel and bias.

        Returns:
            [B, T, S, D] in the input's dtype. Scores and their softmax are always float32.
        """
        match self.form:
            case "pallas":
                return self._on_each_device(self._kernel(axis))(qkv_BTSC)
            case "cudnn":
                return self.of_parts(jnp.split(qkv_BTSC, 3, axis=-1), axis)
        return attend(qkv_BTSC, self.num_heads, axis)

    def of_parts(self, qkv: Sequence[jax.Array], axis: Axis, num_tokens: int | None = None) -> jax.Array:
        """The same with cuDNN, of query, key and value [B, T, S, D]; the tokens from `num_tokens` on are masked.

        A masked token's result and gradients are 0: so JAX's own tests have it (tests/nn_test.py of jax,
        testDotProductAttentionMask).
        """
        kernel = functools.partial(_cudnn, head_dim=self.head_dim, axis=axis, num_tokens=num_tokens)
        return self._on_each_device(kernel)(*qkv)

    def on_one_device(self) -> "Attend":
        """The same form for arrays of one device, with the heads that a device has."""
        return dataclasses.replace(self, num_heads=self._local_heads, sharding=None)

    @property
    def _local_heads(self) -> int:
        if self.sharding is None or self.sharding.spec[-1] is None:
            return self.num_heads
        parts: int = self.sharding.mesh.shape[self.sharding.spec[-1]]
        return self.num_heads // parts

    def _kernel(self, axis: Axis) -> Callable[[jax.Array], jax.Array]:
        return lambda qkv_BTSC: divided_attention.attend(
            qkv_BTSC, self._local_heads, self.head_dim, axis, self.interpret
        )

    def _on_each_device(self, function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        """Runs a kernel on each device's part. The partitioner cannot split a kernel: it would gather the batch."""
        if self.sharding is None:
            return function
        spec = self.sharding.spec
        return jax.shard_map(function, mesh=self.sharding.mesh, in_specs=spec, out_specs=spec, check_vma=False)


def choose(
    form: str,
    num_heads: int,
    head_dim: int,
    dtype: jnp.dtype,
    sharding: NamedSharding | None,
    clip: tuple[int, int],
) -> AttentionForm:
    """The form of attention that a config selects, on the available devices.

    Args:
        form: one of FORMS. "fused": the platform's kernel; without one, Pallas's interpreter (slow, for tests).
            "auto": the kernel if it is known to compile and to be fast, otherwise einsum.
        dtype: of the activations.
        sharding: of [B, T, S, C] arrays. Its devices decide the platform. None: JAX's default device.
        clip: frames, and tokens of each.
    """
    if (own := own_form(form, num_heads, head_dim)) is not None:
        return own
    device = jax.devices()[0] if sharding is None else sharding.mesh.devices.flat[0]
    attend = Attend("einsum", num_heads, head_dim, sharding)
    if device.platform == "gpu":
        cudnn = form != "einsum" and _cudnn_takes(device, head_dim, dtype)
        return dataclasses.replace(attend, form="cudnn" if cudnn else "einsum")
    fast = divided_attention.was_compiled(device.device_kind, head_dim, dtype, *clip)
    fast = fast and divided_attention.fills_lanes(attend._local_heads, head_dim)
    if form == "fused" or (form == "auto" and fast):
        return dataclasses.replace(attend, form="pallas", interpret=device.platform != "tpu")
    return attend


def _cudnn_takes(device: jax.Device, head_dim: int, dtype: jnp.dtype) -> bool:
    """Whether cuDNN has fused attention: for two-byte floats, from Ampere on. JAX itself does not check this."""
    if "cuda" not in device.client.platform_version:
        return False
    generation = int(device.compute_capability.split(".")[0])
    return generation >= 8 and jnp.dtype(dtype).itemsize == 2 and head_dim % 8 == 0 and head_dim <= 128


def attend(qkv_BTSC: jax.Array, num_heads: int, axis: Axis) -> jax.Array:
    """Softmax attention (arXiv 1706.03762, section 3.2) of each token to the tokens at its position or in its frame.

    Args:
        qkv_BTSC: projected tokens, the channels ordered (query, key, value), (head), (head_dim).
        num_heads: number of heads; divides the width.
        axis: "time": over the frames, at each position. "space": over the tokens, in each frame.

    Returns:
        [B, T, S, D] in the input's dtype. Scores and their softmax are always float32.
    """
    to_scores, to_output = _EINSUMS[axis]
    q_BTSHK, k_BTSHK, v_BTSHK = rearrange(qkv_BTSC, "b t s (c h k) -> c b t s h k", c=3, h=num_heads)
    scores = jnp.einsum(to_scores, q_BTSHK, k_BTSHK, preferred_element_type=jnp.float32)
    probs = jax.nn.softmax(scores * q_BTSHK.shape[-1] ** -0.5, axis=-1).astype(v_BTSHK.dtype)
    out_BTSHK = jnp.einsum(to_output, probs, v_BTSHK)
    out_BTSD: jax.Array = checkpoint_name(rearrange(out_BTSHK, "b t s h k -> b t s (h k)"), OUTPUT_NAME)
    return out_BTSD


def reads_parts(form: AttentionForm) -> TypeGuard[Attend]:
    """Whether the form has `Attend.of_parts`, which reads what three matrix products write, without a copy."""
    return isinstance(form, Attend) and form.form == "cudnn"


def _cudnn(*qkv: jax.Array, head_dim: int, axis: Axis, num_tokens: int | None) -> jax.Array:
    """`attend` with cuDNN, which needs (sequences, tokens, heads, head_dim)."""
    sequences = {"time": "(b s) t h k", "space": "(b t) s h k"}[axis]
    batch, frames, tokens, _ = qkv[0].shape
    parts = [rearrange(part_BTSD, f"b t s (h k) -> {sequences}", k=head_dim) for part_BTSD in qkv]
    count, length, _, _ = parts[0].shape
    valid = num_tokens or length
    if length % 2:  # JAX refuses odd lengths in training (cuDNN only with a bias): add a masked token
        parts = [jnp.pad(part, ((0, 0), (0, 1), (0, 0), (0, 0))) for part in parts]
    lengths = jnp.full(count, valid, jnp.int32) if valid < parts[0].shape[1] else None
    out = jax.nn.dot_product_attention(
        *parts, query_seq_lengths=lengths, key_value_seq_lengths=lengths, implementation="cudnn"
    )
    sizes = {"b": batch, "s": tokens} if axis == "time" else {"b": batch, "t": frames}
    out_BTSD: jax.Array = rearrange(out[:, :length], f"{sequences} -> b t s (h k)", **sizes)
    named_BTSD: jax.Array = checkpoint_name(out_BTSD, OUTPUT_NAME)
    return named_BTSD
