"""The whole model, through its functions of a nested dict."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec

from cover_jax.models import cover
from tests.models import small

LOGICAL_AXES = {"layers", "embed", "joined", "heads", "mlp", "patch", "classes", "tokens", "norm"}
FRAMES = small.frames(2, 4, 16, 16)


def logits(params, frames, key=None, **overrides):
    return np.asarray(small.model(**overrides).apply(params, frames, head="videos", key=key))


@functools.cache
def gradient(remat):
    def loss(params):
        return jnp.square(small.model(remat=remat).apply(params, FRAMES, head="videos")).sum()

    return jax.jit(jax.grad(loss))(small.params())


def without(params, *path):
    """Parameters with zeros below `path`."""
    flat = traverse_util.flatten_dict(params)
    zeroed = {name: jnp.zeros_like(leaf) if name[: len(path)] == path else leaf for name, leaf in flat.items()}
    return traverse_util.unflatten_dict(zeroed)


# Heads and parameters


def test_a_loss_on_one_head_gives_exactly_zero_gradient_in_the_other():
    grads = gradient("full")
    assert all(not leaf.any() for leaf in jax.tree.leaves(grads["heads"]["images"]))
    used = traverse_util.flatten_dict({"backbone": grads["backbone"], "videos": grads["heads"]["videos"]}, sep="/")
    assert [name for name, leaf in used.items() if not leaf.any()] == []


@pytest.mark.parametrize("head", ["linear", "mlp", "attentive"])
def test_axes_name_every_dimension_of_every_parameter(head):
    model = small.model(head=head)
    shapes = traverse_util.flatten_dict(jax.eval_shape(model.init, jax.random.key(0)), sep="/")
    axes = traverse_util.flatten_dict(model.axes, sep="/")
    assert {name: len(names) for name, names in axes.items()} == {name: leaf.ndim for name, leaf in shapes.items()}
    assert {name for names in axes.values() for name in names} == LOGICAL_AXES
    for path, names in axes.items():
        assert (names[0] == "layers") == ("/blocks/" in path), path


@pytest.fixture(scope="module")
def init():
    return jax.jit(small.model().init)


def test_parameters_are_plain_float32_arrays():
    leaves = jax.tree.leaves(jax.eval_shape(small.model(dtype="bfloat16").init, jax.random.key(0)))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) and leaf.dtype == jnp.float32 for leaf in leaves)


def test_first_values_from_an_image_model(init):
    backbone = init(jax.random.key(0))["backbone"]
    for zero in (*backbone["blocks"]["temporal_fc"].values(), backbone["time_embed"]):
        np.testing.assert_array_equal(zero, 0)


def test_init_is_one_function_of_the_key(init):
    first, again, other = (init(jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not jnp.array_equal(first["backbone"]["pos_embed"], other["backbone"]["pos_embed"])


def test_first_values_from_scratch():
    config = small.config(size_px=256, temporal_init="xavier", time_embed_std=0.5, num_frames=64)
    backbone = jax.jit(cover.functional(config, {}).init)(jax.random.key(0))["backbone"]
    assert jnp.abs(backbone["pos_embed"]).max() <= 0.04
    assert abs(backbone["pos_embed"].std() - 0.88 * 0.02) < 0.0005  # cut at two standard deviations, 0.88 of it is left
    assert abs(backbone["time_embed"].std() - 0.5) < 0.03
    bound = np.sqrt(6 / (64 + 64))  # Glorot and Bengio: uniform within sqrt(6 / (in + out))
    for kernel in (*backbone["blocks"]["temporal_fc"]["kernel"], *backbone["blocks"]["space"]["out"]["kernel"]):
        assert 0.98 * bound < jnp.abs(kernel).max() < bound
    kernels = backbone["blocks"]["time"]["qkv"]["kernel"]
    assert not jnp.array_equal(kernels[0], kernels[1])


# Time


def test_order_of_frames_matters_through_the_time_embedding_alone():
    params = small.params()
    untimed = without(params, "backbone", "time_embed")
    shuffled = FRAMES[:, [2, 0, 3, 1]]
    np.testing.assert_allclose(logits(untimed, FRAMES), logits(untimed, shuffled), atol=1e-4)
    assert np.abs(logits(params, FRAMES) - logits(params, shuffled)).max() > 1e-2


def test_zero_temporal_fc_silences_attention_over_time():
    params = small.params()
    untrained = without(params, "backbone", "blocks", "time")
    assert np.abs(logits(params, FRAMES) - logits(untrained, FRAMES)).max() > 1e-2
    silenced, both = (without(tree, "backbone", "blocks", "temporal_fc") for tree in (params, untrained))
    np.testing.assert_array_equal(logits(silenced, FRAMES), logits(both, FRAMES))


@pytest.mark.parametrize("shape", [(1, 16, 16), (7, 24, 8)])
def test_any_number_of_frames_and_any_grid(shape):
    found = logits(small.params(), small.frames(2, *shape))
    assert found.shape == (2, 5) and np.isfinite(found).all()


def test_a_single_frame_is_a_clip_of_copies_of_it():
    """Without time embedding, attention over equal frames gives each one its own value back."""
    params = without(small.params(), "backbone", "time_embed")
    still = np.repeat(FRAMES[:, :1], 4, axis=1)
    np.testing.assert_allclose(logits(params, FRAMES[:, :1]), logits(params, still), atol=1e-4)


# Ways to compute


@pytest.mark.parametrize("remat", ["full", "attention"])
def test_remat_changes_no_gradient(remat):
    pairs = (gradient("none"), gradient(remat))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), *pairs)


def test_remat_keeps_what_it_says():
    """What the forward pass keeps for the backward one: with "full", little more than each block's input."""

    def kept_values(remat):
        features = cover.functional(small.config(remat=remat), {}).features
        backward = jax.eval_shape(lambda params: jax.vjp(features, params, FRAMES)[1], small.params())
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    parameters = sum(leaf.size for leaf in jax.tree.leaves(small.params()["backbone"]))
    assert kept_values("full") < 1.5 * parameters < kept_values("none")
    patches = FRAMES.shape[0] * FRAMES.shape[1] * 4
    tokens = patches + FRAMES.shape[0] * FRAMES.shape[1]  # each frame has its CLS in space
    assert kept_values("attention") - kept_values("full") == 3 * 64 * (patches + tokens)


def test_kernels_are_cast_once_before_the_scan():
    features = cover.functional(small.config(dtype="bfloat16"), {}).features
    (scan,) = (eqn for eqn in jax.make_jaxpr(features)(small.params(), FRAMES).eqns if eqn.primitive.name == "scan")
    kernels = [operand.aval for operand in scan.invars if operand.aval.ndim == 3]
    assert len(kernels) == 7 and all(kernel.dtype == jnp.bfloat16 for kernel in kernels)


def test_bfloat16_is_close_to_float32():
    """Within 5 % of the features' spread, after 3 blocks: one rounding to bfloat16 is 0.4 % at most."""
    full, half = (small.model(dtype=dtype).features(small.params(), FRAMES) for dtype in ("float32", "bfloat16"))
    error = np.abs(full - half).max() / full.std()
    assert 1e-4 < error < 0.05


def test_drop_path_needs_a_key_and_a_rate():
    key, params = jax.random.key(2), small.params()
    plain = logits(params, FRAMES)
    np.testing.assert_array_equal(plain, logits(params, FRAMES, key))
    np.testing.assert_array_equal(plain, logits(params, FRAMES, drop_path=0.5))
    dropped = logits(params, FRAMES, key, drop_path=0.5)
    assert np.abs(plain - dropped).max() > 1e-2
    np.testing.assert_array_equal(dropped, logits(params, FRAMES, key, drop_path=0.5))


def test_constrain_sees_the_tokens_at_every_edge():
    shapes = []

    def record(x):
        shapes.append(x.shape)
        return x

    model = cover.functional(small.config(remat="none"), {}, constrain=record)
    jax.eval_shape(model.features, small.params(), FRAMES)
    assert shapes[:2] == shapes[2:4] == [(2, 64), (2, 4, 4, 64)]  # before the first block; after each, traced once


def test_sharded_equals_unsharded():
    """Parameters sharded over 8 devices, within a mesh's context, with activations constrained."""
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    mesh_axes = {"embed": "fsdp", "heads": "tensor", "mlp": "tensor"}

    def sharding(names):
        return NamedSharding(mesh, PartitionSpec(*(mesh_axes.get(name) for name in names)))

    def constrain(x):
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec("data")))

    with jax.set_mesh(mesh):
        model = cover.functional(small.config(), small.CLASSES, constrain=constrain)
        shardings = jax.tree.map(sharding, model.axes, is_leaf=lambda node: isinstance(node, tuple))
        params = jax.device_put(small.params(), shardings)
        found = jax.jit(model.features)(params, FRAMES)
    assert params["backbone"]["blocks"]["mlp"]["fc1"]["kernel"].addressable_shards[0].data.shape == (3, 32, 128)
    np.testing.assert_allclose(found, small.model().features(small.params(), FRAMES), atol=1e-4)


# Refusals


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("variant", "L", "model.variant"),
        ("size_px", 17, "model.size_px: 17 is not a positive multiple of mu/8's patch"),
        ("size_px", 0, "model.size_px: 0"),
        ("num_frames", 0, "model.num_frames: 0"),
        ("drop_path", 1.0, r"model.drop_path: 1.0 is not in \[0, 1\)"),
        ("temporal_init", "zero", "model.temporal_init: 'zero' is not one of zeros, xavier"),
        ("head", "conv", "model.head: 'conv' is not one of linear, mlp, attentive"),
        ("dtype", "float16", "model.dtype: 'float16' is not one of bfloat16, float32"),
        ("remat", "", "model.remat: '' is not one of full, attention, none"),
    ],
)
def test_config_values_that_no_model_has(key, value, message):
    with pytest.raises(ValueError, match=message):
        cover.functional(small.config(**{key: value}), {"a": 2})


@pytest.mark.parametrize("name", ["", "a-b", "a.b", "a/b", "é"])
def test_names_of_heads(name):
    with pytest.raises(ValueError, match="letters, digits and '_' only"):
        cover.functional(small.config(), {name: 2})


def test_a_head_may_be_called_as_a_method_of_dict_or_a_number():
    model = cover.functional(small.config(), {"items": 2, "20": 3})
    params = small.random_params(jax.eval_shape(model.init, jax.random.key(0)))
    assert jax.eval_shape(lambda: model.apply(params, FRAMES, "20")).shape == (2, 3)


def test_a_head_without_classes():
    with pytest.raises(ValueError, match="head 'a': 0 classes"):
        cover.functional(small.config(), {"a": 0})


def test_a_head_that_does_not_exist():
    with pytest.raises(ValueError, match="head: 'audio' is not one of videos, images"):
        small.model().apply(small.params(), FRAMES, head="audio")


def test_frames_that_do_not_split_into_patches():
    with pytest.raises(ValueError, match="20 x 16 px"):
        small.model().features(small.params(), small.frames(1, 1, 20, 16))
