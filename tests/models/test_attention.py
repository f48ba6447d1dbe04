"""Attention over time and space."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cover_jax.models.attention import attend

BATCH, FRAMES, TOKENS, HEADS, HEAD_DIM = 2, 3, 5, 2, 4
WIDTH = HEADS * HEAD_DIM


@pytest.fixture
def qkv():
    return jax.random.normal(jax.random.key(0), (BATCH, FRAMES, TOKENS, 3 * WIDTH))


def one_sequence(qkv):
    """Attention within [length, 3 * WIDTH], head by head, in float64."""
    query, key, value = np.split(np.asarray(qkv, np.float64), 3, axis=-1)
    outputs = []
    for head in range(HEADS):
        columns = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
        weights = np.exp(query[:, columns] @ key[:, columns].T / np.sqrt(HEAD_DIM))
        outputs.append(weights / weights.sum(axis=-1, keepdims=True) @ value[:, columns])
    return np.concatenate(outputs, axis=-1)


def test_time_attends_over_the_frames_of_each_position(qkv):
    expected = [[one_sequence(qkv[clip, :, token]) for token in range(TOKENS)] for clip in range(BATCH)]
    np.testing.assert_allclose(attend(qkv, HEADS, "time"), np.swapaxes(expected, 1, 2), atol=1e-5)


def test_space_attends_over_the_tokens_of_each_frame(qkv):
    expected = [[one_sequence(qkv[clip, frame]) for frame in range(FRAMES)] for clip in range(BATCH)]
    np.testing.assert_allclose(attend(qkv, HEADS, "space"), expected, atol=1e-5)


def test_shuffling_patches_of_one_frame_leaves_the_other_positions_alone_in_time(qkv):
    shuffled = qkv.at[:, 1, :3].set(qkv[:, 1, jnp.array([2, 0, 1])])
    before, after = attend(qkv, HEADS, "time"), attend(shuffled, HEADS, "time")
    np.testing.assert_array_equal(before[:, :, 3:], after[:, :, 3:])
    assert np.abs(before - after)[:, :, :3].min(axis=(0, 1, 3)).all()


def test_one_frame_attends_to_itself(qkv):
    np.testing.assert_allclose(attend(qkv[:, :1], HEADS, "time"), qkv[:, :1, :, 2 * WIDTH :], rtol=1e-6)


def test_scores_are_float32_in_bfloat16():
    """Scores 225 and 225.9375; bfloat16 would round the second to 226, and the probability 0.7186 to 0.7311."""
    query, key, value = [15.0, 15.0], [15.0, 15.0625], [0.0, 1.0]
    qkv = jnp.array([query, key, value], jnp.bfloat16).T[None, None]
    output = attend(qkv, 1, "space")
    assert output.dtype == jnp.bfloat16
    np.testing.assert_allclose(output.astype(jnp.float32), 0.7186, atol=2e-3)
