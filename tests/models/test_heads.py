"""Heads: what they compute, and their first values."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util
from ml_collections import ConfigDict

from cover_jax.models import cover, heads
from cover_jax.parallel import sharding
from tests.models import small

FRAMES = small.frames(2, 4, 16, 16)


def logits_features_head(**overrides):
    model, params = small.model(**overrides), small.params(**overrides)
    head = params["heads"]["videos"]
    return model.apply(params, FRAMES, head="videos"), np.asarray(model.features(params, FRAMES)), head


def test_linear_head():
    logits, features, head = logits_features_head(head="linear")
    np.testing.assert_allclose(logits, features @ head["kernel"] + head["bias"], atol=1e-4)


def test_mlp_head_has_one_tanh_layer_of_the_width():
    logits, features, head = logits_features_head(head="mlp")
    assert head["pre_logits"]["kernel"].shape == (64, 64)
    hidden = np.tanh(features @ head["pre_logits"]["kernel"] + head["pre_logits"]["bias"])
    np.testing.assert_allclose(logits, hidden @ head["logits"]["kernel"] + head["logits"]["bias"], atol=1e-4)


def test_float32_in_a_bfloat16_model():
    logits, features, head = logits_features_head(dtype="bfloat16")
    assert logits.dtype == features.dtype == jnp.float32
    np.testing.assert_allclose(logits, features @ head["kernel"] + head["bias"], atol=1e-4)


@pytest.mark.parametrize("head", heads.HEADS)
def test_logits_start_at_zero(head):
    params = jax.jit(small.model(head=head).init)(jax.random.key(0))
    logits = small.model(head=head).apply(params, FRAMES, head="videos")
    np.testing.assert_array_equal(logits, np.zeros((2, 5)))


VJEPA2 = {  # this project's path within a head -> V-JEPA 2's name; "{}" is the number of a block
    "blocks/norm": "pooler.blocks.{}.norm1",
    "blocks/qkv": "pooler.blocks.{}.attn.qkv",
    "blocks/out": "pooler.blocks.{}.attn.proj",
    "blocks/mlp/norm": "pooler.blocks.{}.norm2",
    "blocks/mlp/fc1": "pooler.blocks.{}.mlp.fc1",
    "blocks/mlp/fc2": "pooler.blocks.{}.mlp.fc2",
    "pool/norm": "pooler.cross_attention_block.norm1",
    "pool/query_projection": "pooler.cross_attention_block.xattn.q",
    "pool/key_value": "pooler.cross_attention_block.xattn.kv",
    "pool/mlp/norm": "pooler.cross_attention_block.norm2",
    "pool/mlp/fc1": "pooler.cross_attention_block.mlp.fc1",
    "pool/mlp/fc2": "pooler.cross_attention_block.mlp.fc2",
    "logits": "linear",
}


def of_vjepa2(golden) -> dict:
    """The golden probe's weights as parameters of an attentive head."""

    def layer(name):
        weight = golden[f"{name}.weight"]
        return {"kernel" if weight.ndim == 2 else "scale": weight.T, "bias": golden[f"{name}.bias"]}

    flat = {("pool", "query"): golden["pooler.query_tokens"]}
    for path, name in VJEPA2.items():
        layers = [layer(name.format(block)) for block in range(2 if "{}" in name else 1)]
        for leaf in layers[0]:
            stacked = np.stack([one[leaf] for one in layers])
            flat[(*path.split("/"), leaf)] = stacked if "{}" in name else stacked[0]
    return traverse_util.unflatten_dict(flat)


def build(spec, sizes):
    with nnx.use_eager_sharding(False):  # as cover.py builds it
        return heads.HEADS[spec.kind].build(spec, sizes, nnx.Rngs(0))


def bound_head(spec, sizes, params):
    graph, _ = nnx.split(nnx.eval_shape(lambda: build(spec, sizes)))
    return nnx.merge(graph, params)


def test_attentive_head_equals_that_of_vjepa2():
    with np.load(pathlib.Path(__file__).parent / "golden" / "vjepa2_probe.npz") as golden:
        spec, sizes = heads.HeadSpec("attentive", depth=3, num_heads=2), heads.Sizes(8, 5, num_heads=4)
        head, tokens_BTND = bound_head(spec, sizes, of_vjepa2(golden)), golden["tokens"]
        np.testing.assert_allclose(head(jnp.asarray(tokens_BTND)), golden["logits"], atol=1e-5, rtol=0)
        shuffled_BTND = jnp.asarray(tokens_BTND[:, ::-1, [2, 0, 3, 1]])
        np.testing.assert_allclose(head(shuffled_BTND), golden["logits"], atol=1e-5, rtol=0)  # a set of tokens


def test_first_values_of_an_attentive_head_are_those_of_vjepa2():
    """Its `_rescale_blocks`: the last layers of block i are smaller by sqrt(2 i); logits start at zero here."""
    spec, sizes = heads.HeadSpec("attentive", depth=4), heads.Sizes(64, 5, num_heads=4)
    head = build(spec, sizes)
    for layer, stds in {"qkv": [1, 1, 1], "out": [2, 4, 6]}.items():
        found_L = np.asarray(getattr(head.blocks, layer).kernel[...]).std(axis=(1, 2))
        np.testing.assert_allclose(found_L, 0.02 * np.power(stds, -0.5 if layer == "out" else 1.0), rtol=0.05)
    np.testing.assert_allclose(np.asarray(head.pool.mlp.fc2.kernel[...]).std(), 0.02 * 6**-0.5, rtol=0.05)
    assert not np.any(head.logits.kernel[...])


def test_an_attentive_head_reads_the_normalised_patch_tokens():
    specs = {"videos": heads.HeadSpec("attentive", depth=1)}
    model = cover.functional(small.config(), small.CLASSES, specs)
    params = small.random_params(jax.eval_shape(model.init, jax.random.key(0)))
    cls_BD, tokens_BTND = small.model().tokens(params, FRAMES)
    np.testing.assert_allclose(cls_BD, small.model().features(params, FRAMES), atol=1e-5)
    assert tokens_BTND.shape == (2, 4, 4, 64) and tokens_BTND.dtype == jnp.float32
    norm = params["backbone"]["norm"]
    before_BTND = (tokens_BTND - norm["bias"]) / norm["scale"]
    np.testing.assert_allclose(before_BTND.mean(axis=-1), 0, atol=1e-4)
    np.testing.assert_allclose(before_BTND.std(axis=-1), 1, atol=1e-3)
    expected = bound_head(specs["videos"], heads.Sizes(64, 5, 4), params["heads"]["videos"])(tokens_BTND)
    np.testing.assert_allclose(model.apply(params, FRAMES, head="videos"), expected, atol=1e-4)
    images = params["heads"]["images"]  # the other head of the same model reads CLS, as model.head says
    np.testing.assert_allclose(
        model.apply(params, FRAMES, head="images"), cls_BD @ images["kernel"] + images["bias"], atol=1e-4
    )


def test_an_attentive_head_over_several_devices_gives_the_same_logits():
    """Parameters sharded as `RULES` say, tokens split over data and fsdp, heads over tensor."""
    spec, sizes = heads.HeadSpec("attentive", depth=2), heads.Sizes(16, 5, num_heads=4)
    mesh = sharding.make_mesh(ConfigDict({"data": 2, "fsdp": 2, "tensor": 2}))
    part = cover._part(functools.partial(heads.AttentiveHead, spec, sizes))
    params = small.random_params(jax.eval_shape(part.init, jax.random.key(0)))
    placed = jax.device_put(params, sharding.state_shardings(params, part.axes, mesh))
    tokens_BTND = np.random.default_rng(0).standard_normal((8, 2, 3, 16)).astype(np.float32)
    constrain = sharding.constrain_batch(mesh)
    run = jax.jit(lambda params, x: part.bind(params)(x, constrain), in_shardings=(None, sharding.batch_sharding(mesh)))
    assert placed["pool"]["key_value"]["kernel"].addressable_shards[0].data.shape == (8, 16)
    np.testing.assert_allclose(run(placed, tokens_BTND), part.bind(params)(tokens_BTND), atol=1e-5)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (None, heads.HeadSpec("mlp")),  # a checkpoint from before the key
        ({"kind": "", "depth": 4, "num_heads": 0}, heads.HeadSpec("mlp")),
        ({"kind": "linear", "depth": 4, "num_heads": 0}, heads.HeadSpec("linear")),
        ({"kind": "attentive", "depth": 2, "num_heads": 3}, heads.HeadSpec("attentive", 2, 3)),
    ],
)
def test_a_dataset_names_its_head_or_takes_the_models(own, expected):
    assert heads.HeadSpec.of(small.config(head="mlp"), own) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (heads.HeadSpec("attentive", 0), "head.depth: 0: must be at least 1"),
        (heads.HeadSpec("attentive", 1, 5), "head.num_heads: 5 does not divide the width 64"),
    ],
)
def test_attentive_heads_that_cannot_be(spec, message):
    with pytest.raises(ValueError, match=message):
        cover.functional(small.config(), {"videos": 5}, {"videos": spec})


def test_flops_of_an_attentive_head_are_those_of_its_products():
    spec, sizes = heads.HeadSpec("attentive", depth=2), heads.Sizes(64, 5, num_heads=4)
    graph, state = nnx.split(nnx.eval_shape(lambda: build(spec, sizes)))
    lowered = jax.jit(lambda state, x: nnx.merge(graph, state)(x)).lower(
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), nnx.to_pure_dict(state)),
        jax.ShapeDtypeStruct((1, 4, 16, 64), jnp.float32),
    )
    counted = lowered.cost_analysis()["flops"]  # with norms, softmax and GELU: a little more
    assert 0.8 * counted < heads.flops(spec, 64, 64) <= counted
