"""Compares the attention kernels with einsum on the device at hand, at the shapes of a config."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cover_jax.models import attention, cover, variants
from cover_jax.models.kernels.divided_attention import Axis
from cover_jax.parallel import sharding
from cover_jax.rehearsal.findings import Findings

# A kernel may differ from exact arithmetic by this many times what einsum differs in the same dtype, and by ROUNDING
# times the largest value besides, where einsum happens to be exact. This project's choice: both round in other places.
MOST_TIMES_EINSUM = 4.0
ROUNDING = 1e-5

# B batch, T frames, S tokens of a frame, C = 3 * D packed query, key and value, D width


def compare(config: ConfigDict, mesh: Mesh, findings: Findings) -> None:
    """Compares output and gradient of the kernels with einsum for each length of clip, in both directions."""
    chosen = cover.choose_attention(config.model, sharding.qkv_sharding(mesh))
    device = jax.local_devices()[0]
    where = f"{device.device_kind} ({config.model.dtype})"
    if not isinstance(chosen, attention.Attend) or chosen.form == "einsum":
        form = chosen.form if isinstance(chosen, attention.Attend) else config.model.attention
        findings.facts["attention"] = f"attention: {form} on {where}: nothing to compare"
        return
    attend = chosen.on_one_device()
    variant, worst = variants.parse(config.model.variant), 0.0
    tokens = (config.model.size_px // variant.patch_px) ** 2 + config.model.registers + 1
    for num_frames in sorted({dataset.num_frames for dataset in config.datasets.values()}):
        axes: tuple[Axis, ...] = ("time", "space") if num_frames > 1 else ("space",)
        for axis in axes:
            shape = (1, num_frames, tokens, 3 * attend.num_heads * attend.head_dim)
            with findings.collect(f"config.model.attention={config.model.attention!r}: {attend.form} at {shape}: "):
                for part, share in _error_shares(attend, shape, jnp.dtype(config.model.dtype), axis).items():
                    worst = max(worst, share)
                    if not share <= 1:
                        findings.add(
                            f"config.model.attention={config.model.attention!r}: the {attend.form} kernel over {axis} "
                            f"differs from einsum on {where} at {shape}: its {part} is off by {share:.3g} times what "
                            "rounding explains; set config.model.attention='einsum'"
                        )
    interpreted = ", interpreted" if attend.interpret else ""
    said = f"attention: {attend.form}{interpreted} on {where}, compared with einsum"
    findings.facts["attention"] = f"{said}: its error is {worst:.2g} of what rounding allows"
    findings.measured["attention/error_share_of_allowed"] = worst


def _error_shares(attend: attention.Attend, shape: tuple[int, ...], dtype: jnp.dtype, axis: Axis) -> dict[str, float]:
    """For "output" and "gradient": the kernel's largest error, as a share of what is allowed."""
    qkv_key, weights_key = jax.random.split(jax.random.key(0))
    qkv_BTSC = jax.random.normal(qkv_key, shape, dtype)
    weights_BTSD = jax.random.normal(weights_key, (*shape[:3], shape[3] // 3))
    einsum = attention.Attend("einsum", attend.num_heads, attend.head_dim)
    with jax.default_matmul_precision("highest"):
        exact = _output_and_gradient(qkv_BTSC.astype(jnp.float32), weights_BTSD, einsum, axis)
    rounded = _output_and_gradient(qkv_BTSC, weights_BTSD, einsum, axis)
    found = _output_and_gradient(qkv_BTSC, weights_BTSD, attend, axis)
    shares = {}
    for part, exactly, by_einsum, by_kernel in zip(("output", "gradient"), exact, rounded, found, strict=True):
        allowed = MOST_TIMES_EINSUM * _distance(by_einsum, exactly) + ROUNDING * float(jnp.max(jnp.abs(exactly)))
        shares[part] = _distance(by_kernel, exactly) / allowed
    return shares


@functools.partial(jax.jit, static_argnums=(2, 3))
def _output_and_gradient(
    qkv_BTSC: jax.Array, weights_BTSD: jax.Array, attend: attention.Attend, axis: Axis
) -> tuple[jax.Array, jax.Array]:
    """Attention, and the gradient of its output times `weights_BTSD`, with columns ordered as in a checkpoint."""

    def loss(qkv_BTSC):
        output = attend(attend.order_columns(qkv_BTSC), axis)
        return jnp.sum(output.astype(jnp.float32) * weights_BTSD), output

    (_, output), gradient = jax.value_and_grad(loss, has_aux=True)(qkv_BTSC)
    return output, gradient


def _distance(one: jax.Array, other: jax.Array) -> float:
    return float(jnp.max(jnp.abs(one.astype(jnp.float32) - other)))
