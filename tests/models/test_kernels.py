"""The TPU kernels, in Pallas's interpreter, against einsum: outputs and gradients, in both dtypes, and split."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from jax.sharding import NamedSharding, PartitionSpec

from cover_jax.models import attention
from cover_jax.models.kernels import divided_attention
from tests.models import small


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def output_and_gradient(qkv, weights, num_heads, axis, form):
    """Attention, and the gradient of its output times `weights`; columns ordered as in a checkpoint."""
    head_dim = qkv.shape[-1] // (3 * num_heads)
    attend = attention.Attend(form, num_heads, head_dim, interpret=True)

    def loss(qkv):
        output = attend(attend.order_columns(qkv), axis)
        return jnp.sum(output.astype(jnp.float32) * weights), output

    (_, output), gradient = jax.value_and_grad(loss, has_aux=True)(qkv)
    return output, gradient


def arrays(frames, tokens, num_heads, head_dim, batch=1):
    qkv_key, weights_key = jax.random.split(jax.random.key(0))
    qkv = jax.random.normal(qkv_key, (batch, frames, tokens, 3 * num_heads * head_dim))
    return qkv, jax.random.normal(weights_key, (batch, frames, tokens, num_heads * head_dim))


# frames, tokens, heads, head_dim
SHAPES = [
    (16, 37, 2, 64),  # several groups of positions in a block; the last one reaches beyond the tokens
    (16, 20, 8, 80),  # the same, and heads across tiles of lanes
    (2, 260, 16, 88),  # the same, and two parts of queries in space
    (8, 9, 16, 88),  # the same in time, and one token more than a block
    (32, 9, 8, 80),  # one block fills the rows of the matrix units by itself
    (128, 5, 2, 64),  # three parts of queries in time, and fewer tokens than a tile
    (2, 7, 2, 128),  # a head that is a tile
    (1, 18, 3, 64),  # an image; heads that fill no tile
    (4, 16, 4, 16),  # heads narrower than a tile, several in one
]


@pytest.mark.parametrize("axis", ["time", "space"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_equals_einsum(shape, axis):
    qkv, weights = arrays(*shape)
    with jax.default_matmul_precision("highest"):
        expected = output_and_gradient(qkv, weights, shape[2], axis, "einsum")
        found = output_and_gradient(qkv, weights, shape[2], axis, "pallas")
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("axis", ["time", "space"])
def test_bfloat16_is_as_near_to_float32_as_einsum_is(axis):
    """Inputs, probabilities and outputs are rounded to 8 bits: 0.4 % each; 2 % of the largest value in all."""
    qkv, weights = arrays(16, 40, 2, 64)
    rounded = qkv.astype(jnp.bfloat16)
    exact = output_and_gradient(rounded.astype(jnp.float32), weights, 2, axis, "einsum")
    errors = {}
    for form in ("einsum", "pallas"):
        found = output_and_gradient(rounded, weights, 2, axis, form)
        assert all(one.dtype == jnp.bfloat16 for one in found)
        errors[form] = [float(jnp.abs(f - e).max() / jnp.abs(e).max()) for f, e in zip(found, exact, strict=True)]
    assert 0 < max(errors["pallas"]) < 0.02
    assert max(errors["pallas"]) < 2 * max(errors["einsum"])


def test_other_positions_do_not_leak_in_time_and_other_frames_in_space():
    qkv, weights = arrays(4, 20, 2, 64)
    for axis, other in (("time", (slice(None), slice(None), 7)), ("space", (slice(None), 2))):
        before, _ = output_and_gradient(qkv, weights, 2, axis, "pallas")
        after, _ = output_and_gradient(qkv.at[other].set(50.0), weights, 2, axis, "pallas")
        changed = np.abs(before - after).max(axis=-1) > 0
        assert changed[other].all()
        changed[other] = False
        assert not changed.any()


@pytest.mark.parametrize("tensor", [1, 2])
def test_a_model_with_kernels_on_eight_devices_equals_einsum_on_one(tensor):
    """Batch and, with `tensor`, heads are split, and the kernel sees one device's part."""
    shape, names = (4, 2 // tensor, tensor), ("data", "fsdp", "tensor")
    mesh = jax.make_mesh(shape, names, axis_types=(jax.sharding.AxisType.Auto,) * 3)
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, None, "tensor"))
    frames = small.frames(8, 4, 16, 16)

    def loss(params, **form):
        model = attention_model(**form)
        return jnp.mean(model.features(params, frames) ** 2)

    backbone = {"backbone": small.params(temporal_init="xavier")["backbone"]}
    with jax.default_matmul_precision("highest"):
        expected = jax.jit(jax.value_and_grad(functools.partial(loss, form="einsum")))(backbone)
        found = jax.jit(jax.value_and_grad(functools.partial(loss, form="fused", qkv_sharding=sharding)))(backbone)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4), found, expected)


def attention_model(form, qkv_sharding=None):
    return small.cover.functional(small.config(attention=form), {}, qkv_sharding=qkv_sharding)


def test_columns_of_a_tile_stand_together():
    """Four heads of 64 in two tiles of 128 lanes: (query, key, value) of heads 0 and 1, then of 2 and 3."""
    attend = attention.Attend("pallas", 4, 64)
    names = np.array([f"{part}{head}" for part in "qkv" for head in range(4) for _ in range(64)])
    ordered = rearrange(np.arange(len(names)), "n -> 1 n")
    found = names[np.asarray(attend.order_columns(jnp.asarray(ordered)))[0]]
    assert list(found[::64]) == ["q0", "q1", "k0", "k1", "v0", "v1", "q2", "q3", "k2", "k3", "v2", "v3"]
    assert attention.Attend("einsum", 4, 64).order_columns(names) is names


@pytest.mark.parametrize(
    ("num_heads", "head_dim", "lanes", "fills"),
    [
        (16, 64, 128, True),
        (16, 80, 128, True),
        (16, 88, 128, True),
        (3, 64, 192, False),
        (8, 88, 704, False),
        (8, 128, 128, True),
        (2, 256, 256, True),
    ],
)
def test_tiles_are_whole_where_they_can_be(num_heads, head_dim, lanes, fills):
    assert divided_attention.tile_lanes(num_heads, head_dim) == lanes
    assert divided_attention.fills_lanes(num_heads, head_dim) == fills
