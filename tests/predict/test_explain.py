"""Attention rollout: of the attention that the model has, followed to where a hand would follow it."""

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cover_jax.predict import explain
from cover_jax.preprocess import crop
from tests.models import small

# B, L, T, N, S as in explain.py


def uniform(batch=1, blocks=1, frames=2, patches=3) -> dict[str, np.ndarray]:
    """Attention of every token to all that it can attend to."""
    tokens = patches + 1
    return {
        "time": np.full((blocks, batch, patches, frames, frames), 1 / frames, np.float32),
        "space": np.full((blocks, batch, frames, tokens, tokens), 1 / tokens, np.float32),
    }


@pytest.mark.parametrize("num_frames", [1, 4])
def test_the_traced_model_is_the_model(num_frames):
    frames = small.frames(2, num_frames, 16, 16)
    trace = jax.jit(lambda params, frames: explain.trace(params, small.config(), frames))
    features, seen = trace(small.params()["backbone"], frames)
    expected = small.model().features(small.params(), frames)
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5)
    assert seen["space"].shape == (3, 2, num_frames, 5, 5)
    assert set(seen) == ({"time", "space"} if num_frames > 1 else {"space"})
    for of_axis in seen.values():
        np.testing.assert_allclose(of_axis.sum(axis=-1), 1.0, rtol=0, atol=1e-5)


def test_attention_to_everything_alike_shares_alike():
    """One block: half of CLS is its own, the other half a quarter from each token of a frame, CLS among them."""
    shares = explain.rollout(uniform())
    np.testing.assert_allclose(shares, np.full((1, 2, 3), 1 / 2 / 4 / 2), rtol=1e-6)


def test_a_look_is_followed_over_space_then_back_in_time():
    """CLS looks at patch 1, which over time looks at frame 0 alone: half of what it gives comes from there."""
    seen = uniform()
    seen["space"][:, :, :, -1] = [0, 1, 0, 0]
    seen["time"][:, :, 1] = [[1, 0], [1, 0]]
    # Half of CLS comes from the two patches 1, a quarter each; half of that of frame 1 is frame 0's.
    np.testing.assert_allclose(explain.rollout(seen)[0], [[0, 0.375, 0], [0, 0.125, 0]], atol=1e-7)


def test_blocks_are_followed_from_the_last_to_the_first():
    """Last, CLS looks at patch 2; before, patch 2 looks at patch 0 and CLS at nothing but itself."""
    seen = uniform(blocks=2)
    seen["time"][:] = np.eye(2)
    seen["space"][:] = np.eye(4)
    seen["space"][1, :, :, -1] = [0, 0, 1, 0]
    seen["space"][0, :, :, 2] = [1, 0, 0, 0]
    np.testing.assert_allclose(explain.rollout(seen)[0], [[0.125, 0, 0.125]] * 2, atol=1e-7)


def test_a_single_frame_has_no_attention_over_time():
    seen = {"space": jnp.asarray(uniform(frames=1)["space"])}
    np.testing.assert_allclose(explain.rollout(seen), np.full((1, 1, 3), 1 / 8), rtol=1e-6)


def test_what_is_looked_at_is_bright_and_bars_count_frames():
    frames = np.full((2, 8, 8, 3), 200, np.uint8)
    shares = np.array([[[0.4, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.2]]])
    drawn = explain.draw(frames, shares, crop.Box(0, 0, 8, 8), [()] * 2)  # without captions
    assert drawn.shape == (2, 256 + 32, 256, 3)
    assert drawn[0, 0, 0, 0] == 200 and drawn[0, 255, 255, 0] == 50
    assert drawn[1, 0, 0, 0] == 50 and drawn[1, 255, 255, 0] == 125  # half as bright as the brightest
    of_first, of_second = drawn[0, 256:, 10, 0], drawn[0, 256:, 200, 0]
    assert of_first.tolist() == [255] * 32
    assert of_second.tolist() == [0] * 16 + [110] * 16
    assert drawn[1, 256:, 200, 0].max() == 255


def test_only_what_the_model_sees_of_a_frame_is_bright():
    """A frame of 300 x 401 pixels, of which the model sees the square in the middle."""
    frames = np.full((1, 300, 401, 3), 200, np.uint8)
    drawn = explain.draw(frames, np.full((1, 2, 2), 0.1), crop.Box(0, 50.5, 300, 300), [("dancing 75.0%", "1.20 s")])
    assert drawn.shape == (1, 338, 402, 3)  # 37 px of bars; H.264 asks for even numbers
    assert drawn[0, 299, :400:100, 0].tolist() == [50, 200, 200, 200]
    assert (drawn[0, 200, :50] == 50).all() and (drawn[0, 200, 350:400] == 50).all()
    text = drawn[0, :40, :100, 0]
    assert text.max() == 255 and np.mean(text == 0) > 0.5  # white on black


def test_a_long_line_is_cut():
    frames, shares = np.zeros((1, 256, 256, 3), np.uint8), np.ones((1, 1, 1))
    box, name = crop.Box(0, 0, 256, 256), "an exceedingly long-winded name of a class of which nobody knows the end"
    cut, whole = (explain.draw(frames, shares, box, [(line,)])[0, :20, :, 0] for line in (name * 2, name[:20]))
    assert cut[:, -2:].max() == 0 and cut[:, -30:-2].max() > 200 and whole[:, -30:].max() == 0


def test_the_video_has_each_picture(tmp_path):
    pictures = np.stack([np.full((288, 256, 3), level, np.uint8) for level in (40, 120, 200)])
    explain.write(str(tmp_path / "out.mp4"), pictures)
    with av.open(str(tmp_path / "out.mp4")) as container:
        levels = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
    np.testing.assert_allclose(levels, [40, 120, 200], atol=3)


def test_registers_take_their_part_of_the_shares():
    """Two patches, a register and CLS, each attending to all: CLS keeps half, a quarter of the other half is each's."""
    seen = {"space": np.full((1, 1, 1, 4, 4), 0.25, np.float32)}
    np.testing.assert_allclose(explain.rollout(seen, registers=1), [[[0.125, 0.125]]], rtol=1e-6)
