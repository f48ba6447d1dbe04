"""Linear layer, layer norm and GELU, with gradients that keep no more than their inputs, in the inputs' type.

JAX's own gradients of these keep up to four float32 arrays of the size of the activations. Their results are the same.
"""

# C channels, D width; leading axes are free

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

ZEROS, XAVIER = nnx.initializers.zeros_init(), nnx.initializers.xavier_uniform()
GELUS = ("exact", "tanh", "quick")
QUICK_GELU_SLOPE = 1.702  # openai/CLIP, clip/model.py


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """`x` [..., C] plus a float32 `bias` [C], in x's dtype. The bias's gradient is summed in float32."""
    return (x + bias).astype(x.dtype)


def _add_bias_forward(x: jax.Array, bias: jax.Array) -> tuple[jax.Array, None]:
    return add_bias(x, bias), None


@jax.named_scope("bias_gradient")
def _add_bias_backward(_: None, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gradient, jax.lax.platform_dependent(gradient, tpu=_sum_by_product, default=_sum)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def _sum(x: jax.Array) -> jax.Array:
    """The float32 sum [C] of `x` [..., C] over its leading axes."""
    return x.astype(jnp.float32).sum(tuple(range(x.ndim - 1)))


def _sum_by_product(x: jax.Array) -> jax.Array:
    """`_sum` as a matrix product, which takes a quarter of a sum's time on a TPU.

    It has eight rows of ones, because the compiler turns a product with one row into a sum again.
    """
    leading = tuple(range(x.ndim - 1))
    ones = jnp.ones((8, *x.shape[:-1]), x.dtype)
    sums_8C = jax.lax.dot_general(
        ones, x, ((tuple(axis + 1 for axis in leading), leading), ((), ())),
        precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32,
    )  # fmt: skip
    return sums_8C[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: jax.Array, kernel: jax.Array, precision: jax.lax.PrecisionLike) -> jax.Array:
    """`x` [..., K] times `kernel` [K, C]."""
    return jnp.dot(x, kernel, precision=precision)


def _product_forward(
    x: jax.Array, kernel: jax.Array, precision: jax.lax.PrecisionLike
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return product(x, kernel, precision), (x, kernel)


def _product_backward(
    precision: jax.lax.PrecisionLike, kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept

    def of_kernel(x: jax.Array, gradient: jax.Array) -> jax.Array:
        leading = tuple(range(x.ndim - 1))
        return jax.lax.dot_general(gradient, x, ((leading, leading), ((), ())), precision=precision).T

    def of_rows(x: jax.Array, gradient: jax.Array) -> jax.Array:
        # With more than one leading axis, XLA's CPU compiler writes a transposed copy of the gradient first.
        return of_kernel(x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1]))

    x_gradient = jax.lax.dot_general(gradient, kernel, (((gradient.ndim - 1,), (1,)), ((), ())), precision=precision)
    return x_gradient, jax.lax.platform_dependent(x, gradient, cpu=of_rows, default=of_kernel)


product.defvjp(_product_forward, _product_backward)


class Linear(nnx.Linear):
    """`nnx.Linear` that adds its bias in float32, so that the bias's gradient is summed in float32 too.

    This is more accurate than a sum in bfloat16.
    """

    def __call__(self, x: jax.Array, columns: Callable[[jax.Array], jax.Array] = lambda weights: weights) -> jax.Array:
        """`columns` selects and orders output features. It is applied to the last axis of kernel and bias."""
        assert self.bias is not None  # `linear` always creates a bias
        kernel = columns(self.kernel[...]).astype(self.dtype)
        return add_bias(product(x.astype(self.dtype), kernel, self.precision), columns(self.bias[...]))


def linear(
    axes: tuple[str, str],
    sizes: tuple[int, int],
    *,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
    kernel_init: nnx.Initializer = XAVIER,
    precision: jax.lax.Precision | None = None,
) -> Linear:
    """A linear layer from `sizes[0]` to `sizes[1]` features whose kernel [in, out] has the logical `axes`."""
    return Linear(
        *sizes,
        dtype=dtype,
        precision=precision,
        kernel_init=nnx.with_partitioning(kernel_init, axes),
        bias_init=nnx.with_partitioning(ZEROS, axes[1:]),
        rngs=rngs,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """Layer norm (arXiv 1607.06450) of `x` [..., D] in float32. `scale` and `bias` [D] are float32."""
    return _normalize_forward(x, scale, bias, eps)[0]


_Kept = tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # x and scale; mean and reciprocal deviation [..., 1]


def _normalize_forward(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> tuple[jax.Array, _Kept]:
    x_f32 = x.astype(jnp.float32)
    mean, mean_square = x_f32.mean(-1, keepdims=True), jnp.square(x_f32).mean(-1, keepdims=True)
    # One pass over x for both; rounding may leave a variance of 0 a little below it.
    reciprocal = jax.lax.rsqrt(jnp.maximum(0.0, mean_square - jnp.square(mean)) + eps)
    return (x_f32 - mean) * (reciprocal * scale) + bias, (x, scale, mean, reciprocal)


def _normalize_backward(_: float, kept: _Kept, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale, mean, reciprocal = kept
    normal = (x.astype(jnp.float32) - mean) * reciprocal
    scaled = gradient * scale
    along_normal = normal * (scaled * normal).mean(-1, keepdims=True)
    x_gradient = (scaled - scaled.mean(-1, keepdims=True) - along_normal) * reciprocal
    return x_gradient.astype(x.dtype), _sum(gradient * normal), _sum(gradient)


normalize.defvjp(_normalize_forward, _normalize_backward)


class LayerNorm(nnx.LayerNorm):
    """`nnx.LayerNorm` that computes and returns float32. The next layer casts, and the compiler fuses this cast."""

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]  # nnx's mask has no use here
        """`x` [..., D] normalised over D."""
        assert self.scale is not None
        assert self.bias is not None  # `layer_norm` always creates both
        return normalize(x, self.scale[...], self.bias[...], self.epsilon)


def layer_norm(width: int, eps: float, rngs: nnx.Rngs) -> LayerNorm:
    """A layer norm whose parameters have the logical axis "norm"."""
    return LayerNorm(
        width,
        epsilon=eps,
        dtype=jnp.float32,
        scale_init=nnx.with_partitioning(nnx.initializers.ones_init(), ("norm",)),
        bias_init=nnx.with_partitioning(ZEROS, ("norm",)),
        rngs=rngs,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gelu(x: jax.Array, form: str) -> jax.Array:
    """GELU in one of the `GELUS`, computed in float32: near -3, 1 + erf loses all digits in bfloat16.

    "tanh" and "quick" (x times a sigmoid, of CLIP) are approximations. The exact GELU uses erf, because
    `jax.nn.gelu(approximate=False)` uses erfc, which is several times slower on a CPU.
    The barrier stops a TPU's compiler from recomputing it for each tile of the next matrix product.
    """
    y: jax.Array = jax.lax.optimization_barrier(_gelu(form, x.astype(jnp.float32)).astype(x.dtype))
    return y


def _gelu(form: str, x_f32: jax.Array) -> jax.Array:
    if form == "tanh":
        return jax.nn.gelu(x_f32, approximate=True)
    if form == "quick":
        return x_f32 * jax.nn.sigmoid(QUICK_GELU_SLOPE * x_f32)
    return 0.5 * x_f32 * (1 + jax.lax.erf(x_f32 * math.sqrt(0.5)))


def _gelu_forward(x: jax.Array, form: str) -> tuple[jax.Array, jax.Array]:
    return gelu(x, form), x


def _gelu_backward(form: str, x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    _, backward = jax.vjp(functools.partial(_gelu, form), x.astype(jnp.float32))
    (x_gradient,) = backward(gradient.astype(jnp.float32))
    return (x_gradient.astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)
