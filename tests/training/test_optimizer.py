"""Each key of config.optimizer does what it says, on a small tree with the paths of a real one."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from cover_jax.training import optimizer, run
from tests.helpers import small

DEPTH = 3


@pytest.fixture
def params():
    def leaf(*shape):
        return jnp.ones(shape)

    backbone = {
        "patch_embed": {"kernel": leaf(4, 2), "bias": leaf(2)},
        "pos_embed": leaf(1, 5, 2),
        "time_embed": leaf(1, 3, 2),
        "blocks": {"mlp": {"fc1": {"kernel": leaf(DEPTH, 2, 4), "bias": leaf(DEPTH, 4)}}},
        "norm": {"scale": leaf(2)},
    }
    return {"backbone": backbone, "heads": {"a": {"kernel": leaf(2, 3)}}}


def one_update(params, grads=None, head_scales=None, **changes):
    """The first update under config.optimizer with these changes, at a learning rate of 1."""
    config = common.optimizer()
    config.update({"learning_rate": 1.0, "clip_norm": 0.0, "momentum": 0.0} | changes)
    schedule = optimizer.make_schedule(config, steps=10)
    tx = optimizer.make_optimizer(config, schedule, params, head_scales=head_scales or {})
    grads = jax.tree.map(jnp.ones_like, params) if grads is None else grads
    return tx.update(grads, tx.init(params), params)


def test_schedule_warms_up_and_ends_where_it_should():
    config = common.optimizer()
    config.update({"learning_rate": 2.0, "warmup_steps": 4, "final_learning_rate": 0.5})
    schedule = optimizer.make_schedule(config, steps=20)
    np.testing.assert_allclose([schedule(s) for s in (0, 2, 4, 12, 20)], [0.0, 1.0, 2.0, 1.25, 0.5], rtol=1e-6)


def test_schedule_without_warmup_starts_at_the_peak():
    assert optimizer.make_schedule(common.optimizer(), steps=10)(0) == pytest.approx(0.1)


@pytest.mark.parametrize(("warmup_steps", "steps"), [(20, 20), (500, 20), (1, 1), (500, 1)])
def test_a_warmup_as_long_as_the_run_is_cut(warmup_steps, steps):
    config = common.optimizer()
    config.update({"learning_rate": 2.0, "warmup_steps": warmup_steps})
    rates = [float(optimizer.make_schedule(config, steps)(step)) for step in range(steps + 1)]
    assert rates[:-1] == pytest.approx(np.linspace(0, 2, steps) if steps > 1 else [2.0]) and rates[-1] == 0


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_each_head_learns_at_its_own_rate(params, name):
    """Of several heads on one backbone, each is as if it were alone: also with Adam and weight decay."""
    params["heads"] |= {"b": params["heads"]["a"], "c": params["heads"]["a"]}
    settings = {"name": name, "weight_decay": 0.1}
    updates, _ = one_update(params, head_scales={"a": 1.0, "b": 0.25}, **settings)
    alone, state = one_update(params, **settings)
    for head, scale in {"a": 1.0, "b": 0.25, "c": 1.0}.items():
        expected = alone["heads"][head]["kernel"] * scale
        np.testing.assert_allclose(updates["heads"][head]["kernel"], expected, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, updates["backbone"], alone["backbone"])
    _, same = one_update(params, head_scales={"a": 1.0}, **settings)  # an old checkpoint's state has this form
    assert jax.tree.structure(same) == jax.tree.structure(state)


def test_sgd_is_minus_the_gradient(params):
    updates, _ = one_update(params)
    jax.tree.map(lambda u: np.testing.assert_array_equal(u, -1), updates)


def test_momentum_adds_up(params):
    config = common.optimizer()
    config.update({"learning_rate": 1.0, "clip_norm": 0.0, "momentum": 0.5})
    tx = optimizer.make_optimizer(config, lambda step: 1.0, params)
    grads, state = jax.tree.map(jnp.ones_like, params), tx.init(params)
    for expected in (-1, -1.5, -1.75):
        updates, state = tx.update(grads, state, params)
        np.testing.assert_allclose(updates["heads"]["a"]["kernel"], expected)


def test_adamw_moves_by_the_sign(params):
    grads = jax.tree.map(lambda p: -3 * jnp.ones_like(p), params)
    updates, _ = one_update(params, grads, name="adamw")
    jax.tree.map(lambda u: np.testing.assert_allclose(u, 1, rtol=1e-5), updates)


def test_clipping_is_by_the_global_norm(params):
    updates, _ = one_update(params, clip_norm=0.5)
    assert optax.tree.norm(updates) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_spares_biases_norms_and_embeddings(params, name):
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = one_update(params, zeros, name=name, weight_decay=0.1)
    decayed = optimizer.map_paths(lambda path, u: bool(np.all(u == np.float32(-0.1))), updates)
    untouched = optimizer.map_paths(lambda path, u: bool(np.all(u == 0)), updates)
    assert decayed["backbone"]["blocks"]["mlp"]["fc1"]["kernel"] and decayed["heads"]["a"]["kernel"]
    assert untouched["backbone"]["blocks"]["mlp"]["fc1"]["bias"] and untouched["backbone"]["norm"]["scale"]
    assert untouched["backbone"]["pos_embed"]


def test_layer_decay_by_hand(params):
    updates, _ = one_update(params, layer_decay=0.5)
    blocks = updates["backbone"]["blocks"]["mlp"]["fc1"]["kernel"]
    np.testing.assert_allclose(blocks[:, 0, 0], [-0.125, -0.25, -0.5])
    np.testing.assert_allclose(updates["backbone"]["patch_embed"]["kernel"], -0.0625)
    np.testing.assert_allclose(updates["backbone"]["pos_embed"], -0.0625)
    np.testing.assert_allclose(updates["backbone"]["time_embed"], -1)  # from an image model it begins at zero
    np.testing.assert_allclose(updates["backbone"]["norm"]["scale"], -1)
    np.testing.assert_allclose(updates["heads"]["a"]["kernel"], -1)


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_frozen_parameters_stay_and_keep_no_state(params, layer_decay):
    updates, state = one_update(params, name="adamw", frozen="backbone/.*", weight_decay=0.1, layer_decay=layer_decay)
    jax.tree.map(lambda u: np.testing.assert_array_equal(u, 0), updates["backbone"])
    assert np.all(updates["heads"]["a"]["kernel"] != 0)
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert [m.shape for m in moments] == [(2, 3)] * 2


def test_no_gradient_reaches_frozen_parameters(params):
    def loss(p):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(optimizer.stop_frozen(p, "backbone/blocks/.*")))

    grads = jax.grad(loss)(params)
    np.testing.assert_array_equal(grads["backbone"]["blocks"]["mlp"]["fc1"]["kernel"], 0)
    np.testing.assert_array_equal(grads["backbone"]["norm"]["scale"], 2)


@pytest.mark.parametrize(("frozen", "which"), [("backbone", "no parameter"), (".*", "all parameters")])
def test_frozen_must_match_some(params, frozen, which):
    with pytest.raises(ValueError, match=f"{which}.*backbone/blocks/mlp/fc1/bias"):
        one_update(params, frozen=frozen)


@pytest.mark.parametrize(
    ("frozen", "trains"), [("", True), ("backbone/.*", False), ("backbone/blocks/.*", True), ("heads/.*", True)]
)
def test_whether_the_backbone_is_trained(params, frozen, trains):
    config = common.optimizer()
    config.frozen = frozen
    assert optimizer.trains_backbone(config, params) == trains


@pytest.mark.parametrize("frozen", ["", "backbone/.*"])
def test_kept_heads_stay_and_keep_no_state(params, frozen):
    params["heads"]["kept"] = {"kernel": jnp.ones((2, 5)), "bias": jnp.ones(5)}
    config = common.optimizer()
    config.update({"name": "adamw", "learning_rate": 1.0, "weight_decay": 0.1, "frozen": frozen})
    tx = optimizer.make_optimizer(config, lambda step: 1.0, params, ["kept"])
    state = tx.init(params)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
    jax.tree.map(lambda u: np.testing.assert_array_equal(u, 0), updates["heads"]["kept"])
    assert np.all(updates["heads"]["a"]["kernel"] != 0)
    assert np.all(updates["backbone"]["norm"]["scale"] != 0) == (not frozen)
    assert not {(2, 5), (5,)} & {leaf.shape for leaf in jax.tree.leaves(state)}


def test_another_number_of_steps_says_what_becomes_of_the_rate():
    config = small.config(steps=200, optimizer__learning_rate=1.0)
    now = types.SimpleNamespace(
        config=config, setup=types.SimpleNamespace(schedule=optimizer.make_schedule(config.optimizer, config.steps))
    )
    before = {"config": small.config(steps=100, optimizer__learning_rate=1.0).to_dict()}
    assert run.Run._other_rate(now, before, 50) == (  # a cosine: half of the way before, a quarter of it now
        "config.steps=200, 100 before: the learning rate at step 50 is 0.854, with 100 steps it would be 0.5; its "
        "schedule now ends at step 200"
    )
    assert run.Run._other_rate(now, {"config": config.to_dict()}, 50) == ""
