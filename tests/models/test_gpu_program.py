"""What a GPU would compute in a training step of B/16 on 8 clips of 8 frames of 224 px, in bfloat16, with cuDNN.

The program is traced and lowered for CUDA; no GPU is needed.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from cover_jax.models import cover, variants
from cover_jax.models.attention import Attend
from tests.helpers import jax_private
from tests.models import small

CLIPS, FRAMES, TOKENS, WIDTH = 8, 8, 197, 768
RESIDUALS_GB = 6.0  # 5.9; 13.9 with JAX's own gradients of layer norm and GELU
SMALL_GB = 0.01  # of residuals that may be float32: statistics of norms and of attention


def backbone(form, **values):
    """The backbone of a config with this form of attention, on one device."""
    model = small.config(**values)
    variant = variants.parse(model.variant)
    return cover.make_backbone(model, Attend(form, variant.num_heads, variant.width // variant.num_heads))


@pytest.fixture(scope="module")
def traced():
    """The gradient of the backbone's mean, with respect to all parameters."""
    model = common.get_config().model
    values = {"variant": "B/16", "num_frames": FRAMES, "size_px": 224, "remat": "none", "dtype": "bfloat16"}
    part = backbone("cudnn", **{**model, **values})
    frames = jax.ShapeDtypeStruct((CLIPS, FRAMES, 224, 224, 3), jnp.float32)

    def mean(params, frames_BTHWC):
        return part.bind(params)(frames_BTHWC, None, cover.identity).mean()

    with pytest.MonkeyPatch.context() as patch:
        jax_private.pretend_cudnn(patch)
        yield jax.jit(jax.grad(mean)).trace(jax.eval_shape(part.init, jax.random.key(0)), frames)


@pytest.fixture(scope="module")
def lowered(traced):
    return traced.lower(lowering_platforms=("cuda",)).as_text()


def gigabytes(array) -> float:
    return array.size * array.dtype.itemsize / 1e9


def test_what_is_kept_for_the_backward_pass_is_bfloat16_and_fits(traced):
    forward = next(equation for equation in traced.jaxpr.eqns if equation.primitive.name == "scan")
    kept = [variable.aval for variable in forward.outvars[forward.params["num_carry"] :]]
    assert 1 < sum(map(gigabytes, kept)) < RESIDUALS_GB
    assert not [array for array in kept if array.dtype == jnp.float32 and gigabytes(array) > SMALL_GB]


def test_nothing_is_copied_around_attention(lowered):
    """cuDNN's arguments are reshaped products; frames and positions are swapped twice in each direction."""
    pads = re.findall(r"stablehlo\.pad .*-> tensor<([\dx]+)xbf16>", lowered)
    # The gradient of the concatenation of patches, CLS and a masked token, which becomes one sum.
    assert set(pads) <= {f"{CLIPS}x{FRAMES}x{TOKENS + 1}x{WIDTH}"}
    permuted = re.findall(r"stablehlo\.transpose .*dims = \[0, 2, 1, 3\] : \(tensor<([\dx]+)x(?:bf16|f32)>", lowered)
    swaps = [shape for shape in permuted if shape.startswith(f"{CLIPS}x") and shape.endswith(f"x{WIDTH}")]
    assert len(swaps) == 4
    # All others are only another name for cuDNN's layout: its results are described as (head, token).
    assert all(re.fullmatch(r"\d+x12x\d+x64", other) for other in permuted if other not in swaps)
    assert not re.findall(r"stablehlo\.transpose .*dims = \[\d, \d, \d, \d, \d\]", lowered)


def test_a_bias_s_gradient_is_a_plain_sum(lowered):
    """Elsewhere it is a product with eight rows of ones, which only a TPU computes faster."""
    assert "stablehlo.dot_general" in lowered
    assert "HIGHEST" not in lowered


def test_the_gpu_s_program_computes_what_einsum_computes(monkeypatch):
    """JAX's own attention takes cuDNN's place. 3 frames and 4 + 2 + 1 tokens: both are odd, so tokens are masked."""
    plain = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *qkv, implementation, **lengths: plain(*qkv, **lengths))
    values = {"registers": 2, "drop_path": 0.5}
    params = small.random_params(jax.eval_shape(backbone("einsum", **values).init, jax.random.key(0)))
    frames = small.frames(2, 3, 16, 16)

    def features(form, params):
        return backbone(form, **values).bind(params)(frames, jax.random.key(1), cover.identity)

    def both(form):
        def weighed(params):
            found = features(form, params)
            return (found * jnp.cos(jnp.arange(found.size).reshape(found.shape))).sum(), found

        return jax.jit(jax.grad(weighed, has_aux=True))(params)

    for found, expected in zip(jax.tree.leaves(both("cudnn")), jax.tree.leaves(both("einsum")), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, np.abs(expected).max()))
