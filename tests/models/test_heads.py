"""Heads: what they compute, and their first values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cover_jax.models import heads
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
