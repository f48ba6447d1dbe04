"""Which form of attention is chosen on which device, and cuDNN's: no GPU is needed."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from cover_jax.models import attention
from tests.helpers import jax_private

WIDTH, HEADS = 768, 12
KERNELS = ("__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward")


def device(platform: str, version: str = "", compute_capability: str = "", kind: str = ""):
    """What `choose` asks of a device."""
    client = types.SimpleNamespace(platform_version=version)
    return types.SimpleNamespace(
        platform=platform, client=client, compute_capability=compute_capability, device_kind=kind
    )


CPU, ROCM = device("cpu"), device("gpu", "rocm 60300", "gfx942")
V2, V4, V7X, TPU = (device("tpu", kind=kind) for kind in ("TPU v2", "TPU v4", "TPU7x", "TPU v5 lite"))
T4, A100, B200 = (device("gpu", "cuda 12090", capability) for capability in ("7.5", "8.0", "10.0"))


@pytest.mark.parametrize(
    ("on", "form", "heads", "head_dim", "dtype", "expected"),
    [
        (CPU, "auto", 16, 64, "bfloat16", "einsum"),
        (CPU, "fused", 16, 64, "bfloat16", "pallas"),
        (TPU, "auto", 16, 64, "bfloat16", "pallas"),
        (TPU, "auto", 3, 64, "bfloat16", "einsum"),
        (TPU, "fused", 3, 64, "bfloat16", "pallas"),
        (TPU, "einsum", 16, 64, "bfloat16", "einsum"),
        (A100, "auto", 16, 64, "bfloat16", "cudnn"),
        (A100, "fused", 16, 64, "bfloat16", "cudnn"),
        (B200, "auto", 16, 88, "bfloat16", "cudnn"),
        (A100, "auto", 16, 64, "float32", "einsum"),
        (A100, "auto", 16, 36, "bfloat16", "einsum"),
        (A100, "einsum", 16, 64, "bfloat16", "einsum"),
        (T4, "auto", 16, 64, "bfloat16", "einsum"),
        (ROCM, "auto", 16, 64, "bfloat16", "einsum"),
    ],
)
def test_the_form_follows_config_and_device(monkeypatch, on, form, heads, head_dim, dtype, expected):
    monkeypatch.setattr(jax, "devices", lambda: [on])
    chosen = attention.choose(form, heads, head_dim, jnp.dtype(dtype), None, (16, 785))
    assert chosen.form == expected
    assert chosen.interpret == (on is CPU and expected == "pallas")


@pytest.mark.parametrize(
    ("on", "head_dim", "dtype", "clip", "expected"),
    [
        (V4, 88, "bfloat16", (128, 1025), "pallas"),
        (V2, 64, "bfloat16", (16, 785), "einsum"),
        (V7X, 64, "bfloat16", (16, 785), "einsum"),
        (TPU, 32, "bfloat16", (16, 785), "einsum"),
        (TPU, 64, "float32", (16, 785), "einsum"),
        (TPU, 64, "bfloat16", (129, 785), "einsum"),
        (TPU, 64, "bfloat16", (16, 1026), "einsum"),
    ],
)
def test_auto_takes_a_tpu_kernel_only_where_it_was_compiled(monkeypatch, on, head_dim, dtype, clip, expected):
    monkeypatch.setattr(jax, "devices", lambda: [on])
    assert attention.choose("auto", 16, head_dim, jnp.dtype(dtype), None, clip).form == expected


def output_and_gradient(form: str, qkv_BTSC, axis: str):
    attend = attention.Attend(form, 2, qkv_BTSC.shape[-1] // 6)

    def weighed(qkv_BTSC):
        out = attend(qkv_BTSC, axis)
        return jnp.sum(jnp.sin(jnp.arange(out.size).reshape(out.shape)) * out), out

    gradient, out = jax.grad(weighed, has_aux=True)(qkv_BTSC)
    return out, gradient


@pytest.mark.parametrize("axis", ["time", "space"])
@pytest.mark.parametrize(("frames", "tokens"), [(3, 6), (4, 5)])
def test_the_gpu_s_attention_sees_the_same_sequences(monkeypatch, axis, frames, tokens):
    """JAX's own implementation of the same function takes cuDNN's place; one of the two lengths is odd."""
    plain = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *qkv, implementation, **lengths: plain(*qkv, **lengths))
    qkv = jax.random.normal(jax.random.key(0), (2, frames, tokens, 3 * 2 * 8))
    for found, expected in zip(
        output_and_gradient("cudnn", qkv, axis), output_and_gradient("einsum", qkv, axis), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.fixture
def cudnn(monkeypatch):
    """cuDNN on a GPU of a generation that has it."""
    jax_private.pretend_cudnn(monkeypatch)


@pytest.mark.parametrize(
    ("axis", "frames", "tokens", "sequences", "length"),
    [
        ("time", 8, 196, 392, 8),
        ("time", 128, 49, 98, 128),
        ("time", 5, 4, 8, 6),
        ("space", 8, 197, 16, 198),
        ("space", 16, 785, 32, 786),
    ],
)
def test_training_lowers_to_cudnn(cudnn, axis, frames, tokens, sequences, length):
    """JAX's own checks of shapes run while it lowers; odd lengths are refused there."""
    attend = attention.Attend("cudnn", HEADS, WIDTH // HEADS)
    gradient = jax.jit(jax.grad(lambda qkv_BTSC: attend(qkv_BTSC, axis).astype(jnp.float32).sum()))
    qkv = jax.ShapeDtypeStruct((2, frames, tokens, 3 * WIDTH), jnp.bfloat16)
    allowed = [export.DisabledSafetyCheck.custom_call(name) for name in KERNELS]
    program = export.export(gradient, platforms=["cuda"], disabled_checks=allowed)(qkv).mlir_module()
    assert all(f"@{name}(" in program for name in KERNELS)
    assert f"tensor<{sequences}x{length}x{HEADS}x64xbf16>" in program
