"""Parts of the backbone: patches, embeddings, drop-path, the block and its scan."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cover_jax.models import attention, cover, layers, timesformer, variants
from tests.models import small

VARIANT = variants.parse("mu/8")
BATCH, FRAMES, PATCHES = 8, 4, 6


@pytest.fixture
def backbone():
    """A TimeSformer with random parameters."""

    def build():
        with nnx.use_eager_sharding(False):
            config = timesformer.TimeSformerConfig(
                VARIANT,
                num_patches=4,
                num_frames=FRAMES,
                drop_path=0.5,
                temporal_init="xavier",
                time_embed_std=1.0,
                gelu="exact",
                layer_norm_eps=1e-6,
                dtype=jnp.float32,
                remat="none",
            )
            attend = attention.choose("einsum", VARIANT.num_heads, 16, jnp.float32, None, (4, 5))
            return timesformer.TimeSformer(config, attend, nnx.Rngs(0))

    graph, state = jax.eval_shape(lambda: nnx.split(build()))
    return nnx.merge(graph, jax.tree.map(jnp.asarray, small.random_params(nnx.to_pure_dict(state))))


@pytest.fixture
def tokens():
    """CLS [B, D] and patch tokens [B, T, N, D]."""
    rng = np.random.default_rng(1)
    return rng.standard_normal((BATCH, 64), np.float32), rng.standard_normal((BATCH, FRAMES, PATCHES, 64), np.float32)


@jax.jit
def run(block, cls, x, rate, key):
    after = block(timesformer.Tokens(cls, x), rate, key)
    return after.cls_BD, after.x_BTND


def layer(blocks, index):
    return jax.tree.map(lambda leaf: leaf[index], blocks)


def silence(linear):
    """Makes a layer's output zero."""
    linear.kernel[...] = jnp.zeros_like(linear.kernel[...])
    linear.bias[...] = jnp.zeros_like(linear.bias[...])


# Patches and embeddings


def test_patches_are_ordered_row_column_channel():
    frames = jnp.arange(2 * 3 * 8 * 12 * 3).reshape(2, 3, 8, 12, 3)
    patches = timesformer.to_patches(frames, 4)
    assert patches.shape == (2, 3, 6, 48)
    np.testing.assert_array_equal(patches[1, 2, 5], frames[1, 2, 4:8, 8:12].ravel())
    np.testing.assert_array_equal(patches[1, 2, 1], frames[1, 2, 0:4, 4:8].ravel())


@pytest.mark.parametrize("size", [(15, 16), (16, 20)])
def test_frames_that_do_not_split_into_patches(size):
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} px.*patches of 8 px"):
        timesformer.to_patches(jnp.zeros((1, 1, *size, 3)), 8)


@pytest.mark.parametrize("shape", [(4, 16, 16, 3), (1, 3, 4, 16, 16)])
def test_frames_of_another_layout(shape):
    with pytest.raises(ValueError, match=r"expected \[B, T, H, W, 3\]"):
        timesformer.to_patches(jnp.zeros(shape), 8)


def test_pos_embed_of_the_same_grid_is_the_same():
    pos_embed = jax.random.normal(jax.random.key(0), (1, 10, 7))
    np.testing.assert_array_equal(timesformer.resize_pos_embed(pos_embed, (3, 3)), pos_embed)


def test_pos_embed_is_bilinear_on_the_grid_and_keeps_cls():
    rows_and_columns = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])  # of a 2 x 2 grid
    pos_embed = jnp.concatenate([jnp.full((1, 2), 9.0), rows_and_columns])[None]
    resized = timesformer.resize_pos_embed(pos_embed, (4, 3))
    np.testing.assert_array_equal(resized[0, 0], [9.0, 9.0])
    grid = resized[0, 1:].reshape(4, 3, 2)
    np.testing.assert_allclose(grid[:, 1, 0], [0, 0.25, 0.75, 1], atol=1e-6)
    np.testing.assert_allclose(grid[2, :, 1], [0, 0.5, 1], atol=1e-6)


def test_pos_embed_of_a_smaller_grid_is_not_smoothed():
    """Halved, each new patch is the mean of the two that meet at its centre; a smoothing filter would reach further."""
    rows = jnp.repeat(jnp.array([0.0, 1.0, 2.0, 9.0]), 4)
    pos_embed = jnp.concatenate([jnp.zeros(1), rows]).reshape(1, 17, 1)
    resized = timesformer.resize_pos_embed(pos_embed, (2, 4))
    np.testing.assert_allclose(resized[0, 1:, 0], [0.5] * 4 + [5.5] * 4, atol=1e-6)


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [(4, [0, 1, 2, 9]), (1, [1.5]), (2, [0.5, 5.5]), (8, [0, 0.25, 0.75, 1.25, 1.75, 3.75, 7.25, 9])],
)
def test_time_embed_is_linear_in_time(num_frames, expected):
    time_embed = jnp.array([0.0, 1.0, 2.0, 9.0]).reshape(1, 4, 1)
    np.testing.assert_allclose(timesformer.resize_time_embed(time_embed, num_frames)[0, :, 0], expected, atol=1e-6)


def test_cls_has_position_0_and_no_time(backbone):
    frames = jnp.zeros((2, FRAMES, 16, 16, 3))
    cls, patches = backbone.embed(frames)
    np.testing.assert_allclose(cls[1], backbone.cls_token[0, 0] + backbone.pos_embed[0, 0], atol=1e-6)
    expected = backbone.patch_embed.bias[...] + backbone.pos_embed[0, 1 + 3] + backbone.time_embed[0, 2]
    np.testing.assert_allclose(patches[1, 2, 3], expected, atol=1e-6)


# Drop-path


def test_drop_path_scale():
    key, shape = jax.random.key(0), (100_000,)
    assert timesformer.drop_path_scale(None, 0.3, shape, jnp.float32) == 1
    np.testing.assert_array_equal(timesformer.drop_path_scale(key, 0.0, shape, jnp.float32), np.ones(shape))
    scale = timesformer.drop_path_scale(key, 0.3, shape, jnp.float32)
    np.testing.assert_allclose(np.unique(scale), [0, 1 / 0.7], rtol=1e-6)
    assert abs(scale.mean() - 1) < 0.01  # six standard errors


def only(block, branch):
    """The block with the other branches' outputs at zero."""
    last_layers = {"time": block.temporal_fc, "space": block.space.out, "mlp": block.mlp.fc2}
    for name, last_layer in last_layers.items():
        if name != branch:
            silence(last_layer)
    return block


def kept(block, tokens, rate):
    """What drop-path leaves of each token's residual, 0 or 1 / (1 - rate): CLS [B, 1], patches [B, T, N, 1]."""
    dropped, full = run(block, *tokens, rate, jax.random.key(3)), run(block, *tokens, rate, None)
    residuals = [(d - x, f - x) for d, f, x in zip(dropped, full, tokens, strict=True)]
    return [np.asarray((d * f).sum(-1, keepdims=True) / (f * f).sum(-1, keepdims=True)) for d, f in residuals]


def assert_mask(found, shape):
    """`found` is a mask at rate 0.5, constant along the axes that have length 1 in `shape` and along no other."""
    np.testing.assert_allclose(np.unique(found.round(3)), [0, 2])
    for axis, length in enumerate(shape):
        constant = np.ptp(found, axis=axis).max() < 1e-3
        assert constant == (length == 1), f"along axis {axis}"


def test_time_is_dropped_by_sample_and_position(backbone, tokens):
    block = only(layer(backbone.blocks, 0), "time")
    block.temporal_fc.bias[...] = jnp.zeros(VARIANT.width)
    dropped, full = run(block, *tokens, 0.5, jax.random.key(3)), run(block, *tokens, 0.5, None)
    np.testing.assert_array_equal(full[0], tokens[0])  # CLS takes no part
    assert_mask(np.asarray((dropped[1] - tokens[1]) / (full[1] - tokens[1])).mean(-1), (BATCH, 1, PATCHES))


def test_time_is_dropped_before_temporal_fc(backbone, tokens):
    block = only(layer(backbone.blocks, 0), "time")
    residual = run(block, *tokens, 0.999999, jax.random.key(3))[1] - tokens[1]
    np.testing.assert_allclose(residual, np.broadcast_to(block.temporal_fc.bias[...], residual.shape), atol=1e-5)


def test_space_is_dropped_by_sample_and_frame(backbone, tokens):
    _, patches = kept(only(layer(backbone.blocks, 0), "space"), tokens, 0.5)
    assert_mask(patches, (BATCH, FRAMES, 1, 1))


def test_mlp_is_dropped_by_sample_and_cls_with_it(backbone, tokens):
    cls, patches = kept(only(layer(backbone.blocks, 0), "mlp"), tokens, 0.5)
    assert_mask(patches, (BATCH, 1, 1, 1))
    np.testing.assert_allclose(cls, patches[:, 0, 0], atol=1e-3)


def test_drop_path_rates_rise_linearly_to_the_last_block(backbone, tokens):
    blocks = only(backbone.blocks, "mlp")
    fc2 = blocks.mlp.fc2
    kernels, biases = fc2.kernel[...], fc2.bias[...]
    residual = jax.jit(lambda model, key: model.run_blocks(*tokens, key, cover.identity)[0] - tokens[0])
    for index, rate in enumerate([0.0, 0.25, 0.5]):
        fc2.kernel[...] = jnp.zeros_like(kernels).at[index].set(kernels[index])
        fc2.bias[...] = jnp.zeros_like(biases).at[index].set(biases[index])
        ratio = residual(backbone, jax.random.key(5)) / residual(backbone, None)
        assert np.isclose(ratio.mean(-1).max(), 1 / (1 - rate), atol=1e-3)


# Blocks


def test_spatial_cls_is_copied_to_every_frame_and_its_results_averaged(backbone, tokens):
    block = only(layer(backbone.blocks, 0), "space")
    by_frame = [run(block, tokens[0], tokens[1][:, t : t + 1], 0.0, None) for t in range(FRAMES)]
    cls, patches = run(block, *tokens, 0.0, None)
    np.testing.assert_allclose(cls, np.mean([frame[0] for frame in by_frame], axis=0), atol=1e-5)
    np.testing.assert_allclose(patches, np.concatenate([frame[1] for frame in by_frame], axis=1), atol=1e-5)


def test_scan_equals_a_loop_over_the_blocks(backbone, tokens):
    scanned = jax.jit(lambda tokens: backbone.run_blocks(*tokens, None, cover.identity))(tokens)
    looped = tokens
    for index in range(VARIANT.depth):
        looped = run(layer(backbone.blocks, index), *looped, 0.0, None)
    for found, expected in zip(scanned, looped, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_layer_norm_is_float32_in_bfloat16():
    """Statistics, scale and result: a bfloat16 mean would be 256, not 257, a bfloat16 scale 1, not 1.001."""
    with nnx.use_eager_sharding(False):
        norm = layers.layer_norm(2, 1e-6, nnx.Rngs(0))
    norm.scale[...] = jnp.full(2, 1.001)
    np.testing.assert_allclose(norm(jnp.array([256, 258], jnp.bfloat16)), [-1.001, 1.001], atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", layers.GELUS)
def test_gelu_is_the_one_that_is_asked_for(form, dtype):
    x = jnp.linspace(-6, 6, 1001).astype(dtype)
    x_f32 = x.astype(jnp.float32)
    quick = x_f32 / (1 + jnp.exp(-1.702 * x_f32))
    expected = quick if form == "quick" else jax.nn.gelu(x_f32, approximate=form == "tanh")
    expected = expected.astype(dtype)
    difference = np.abs(layers.gelu(x, form).astype(jnp.float32) - expected.astype(jnp.float32))
    assert difference.max() < 2e-6  # the nearest other is 5e-4 away


@pytest.mark.parametrize("form", layers.GELUS)
def test_gelu_s_gradient_keeps_its_input_only(form):
    x, weights = jax.random.normal(jax.random.key(0), (2, 4, 300), jnp.float32) * 3
    _, back = jax.vjp(lambda x: layers.gelu(x, form), x)
    _, plain_back = jax.vjp(lambda x: layers._gelu(form, x), x)
    np.testing.assert_allclose(back(weights)[0], plain_back(weights)[0], atol=1e-6)
    assert [kept.shape for kept in jax.tree.leaves(back)] == [x.shape]


def test_layer_norm_is_nnx_s_and_so_is_its_gradient():
    keys = jax.random.split(jax.random.key(0), 4)
    x, weights = (2 + 3 * jax.random.normal(key, (4, 5, 48)) for key in keys[:2])
    scale, bias = (jax.random.normal(key, (48,)) for key in keys[2:])

    def nnx_s(x, scale, bias):
        plain = nnx.LayerNorm(48, epsilon=1e-5, rngs=nnx.Rngs(0))
        plain.scale[...], plain.bias[...] = scale, bias
        return plain(x)

    found, back = jax.vjp(lambda *arrays: layers.normalize(*arrays, 1e-5), x, scale, bias)
    expected, plain_back = jax.vjp(nnx_s, x, scale, bias)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    for gradient, plain_gradient in zip(back(weights), plain_back(weights), strict=True):
        np.testing.assert_allclose(gradient, plain_gradient, rtol=1e-5, atol=1e-5)


def test_a_kernel_s_gradient_is_jax_s_and_needs_no_copy_on_a_cpu():
    x, weights, kernel = (
        jax.random.normal(jax.random.key(index), shape)
        for index, shape in enumerate([(2, 3, 40, 24), (2, 3, 40, 16), (24, 16)])
    )

    def of_kernel(multiply, weights):
        return jax.vjp(lambda kernel: multiply(x, kernel, None), kernel)[1](weights)[0]

    plain = jax.jit(functools.partial(of_kernel, lambda x, kernel, _: x @ kernel))
    compiled = jax.jit(functools.partial(of_kernel, layers.product)).lower(weights).compile()
    np.testing.assert_allclose(compiled(weights), plain(weights), rtol=1e-5, atol=1e-5)
    copies = re.compile(r" (?:copy|transpose)\(")
    assert copies.search(plain.lower(weights).compile().as_text())
    assert not copies.search(compiled.as_text())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_bias_is_added_and_its_gradient_summed_in_float32(dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    x, weights = (jax.random.normal(key, (2, 3, 700, 5), dtype) for key in keys[:2])
    bias = jax.random.normal(keys[2], (5,))
    plain = lambda x, bias: (x.astype(jnp.float32) + bias).astype(dtype)  # noqa: E731
    found, back = jax.vjp(layers.add_bias, x, bias)
    expected, plain_back = jax.vjp(plain, x, bias)
    np.testing.assert_array_equal(found, expected)
    (x_gradient, bias_gradient), (plain_x_gradient, plain_bias_gradient) = back(weights), plain_back(weights)
    np.testing.assert_array_equal(x_gradient, plain_x_gradient)
    assert bias_gradient.dtype == jnp.float32
    np.testing.assert_allclose(bias_gradient, plain_bias_gradient, rtol=1e-5, atol=1e-4)
