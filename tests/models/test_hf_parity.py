"""Logits and gradients equal Hugging Face's, on the random weights of make_hf_golden.py."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from cover_jax.models import cover, variants
from tests.models import small

GOLDEN = pathlib.Path(__file__).parent / "golden" / "timesformer_hf.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def subtree(golden, root):
    """Arrays under "root/" as a nested dict."""
    flat = {name.removeprefix(f"{root}/"): array for name, array in golden.items() if name.startswith(f"{root}/")}
    return traverse_util.unflatten_dict(flat, sep="/")


@pytest.fixture
def model(golden, monkeypatch):
    monkeypatch.setitem(variants.SIZES, "golden", (32, 2, 4, 64))
    config = small.config(variant="golden/4", size_px=12, num_frames=3)
    return cover.functional(config, {"golden": golden["logits"].shape[1]})


@pytest.fixture
def highest_precision():
    with jax.default_matmul_precision("highest"):
        yield


def test_same_parameters(model, golden):
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(model.init, jax.random.key(0)))
    assert shapes == jax.tree.map(jnp.shape, subtree(golden, "params"))


def test_logits_and_gradients(model, golden, highest_precision):
    def loss_and_logits(params):
        logits = model.apply(params, golden["frames"], "golden")
        log_probs = jax.nn.log_softmax(logits)
        return -log_probs[jnp.arange(len(logits)), golden["labels"]].mean(), logits

    params = subtree(golden, "params")
    (loss, logits), grads = jax.jit(jax.value_and_grad(loss_and_logits, has_aux=True))(params)

    np.testing.assert_allclose(logits, golden["logits"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(loss, golden["loss"], atol=1e-5, rtol=0)
    expected = traverse_util.flatten_dict(subtree(golden, "grads"), sep="/")
    for name, grad in traverse_util.flatten_dict(grads, sep="/").items():
        error = np.linalg.norm(grad - expected[name]) / np.linalg.norm(expected[name])
        assert error < 1e-5, f"gradient of {name} differs by {error:.1e} of its norm"
