"""Attention over time or within each frame as one TPU kernel, forward and backward: scores never leave the chip.

The kernels read the projection's output where it lies, so that nothing is sliced, padded or transposed in memory. For
that its channels are ordered (head group), (query, key, value), (head), (head_dim), with as many heads in a group as
fill whole lanes of 128: one block of a group holds all that its heads need.

Within a block, a head is the lanes that it covers, rounded out to whole tiles, and the lanes of its neighbours there
are zeroed: a matrix unit works on 128 lanes anyway, and shifting lanes would cost more.

Attention over time takes many positions at once, as rows (frame, position) of one matrix, and masks the scores between
different positions.
"""

# B batch, T frames, S tokens of a frame, C = 3 * D channels, D width, R rows of a block, W lanes of a head group

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128
SUBLANES = 16  # of a bfloat16 tile: positions are taken in multiples of them
TIME_ROWS = 128  # of a block over time, at least: fewer would leave rows of the matrix units empty
QUERY_ROWS = 256  # rows of scores at a time: this project's choice, by the compiler's schedules
VMEM_BYTES = 64 << 20
OUTPUT_NAME = "attention"  # of the result, for jax.checkpoint_policies
MASKED = -1e30  # finite: the scores of a row that is masked as a whole must not become NaN


def heads_per_group(num_heads: int, head_dim: int) -> int:
    """Heads that together fill whole lanes; all of them where no such number divides `num_heads`."""
    fill = math.lcm(head_dim, LANES) // head_dim
    return fill if num_heads % fill == 0 else num_heads


def fills_lanes(num_heads: int, head_dim: int) -> bool:
    """Whether the kernels can be used on a TPU without shifting lanes."""
    return heads_per_group(num_heads, head_dim) * head_dim % LANES == 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def attend(
    qkv_BTSC: jax.Array, num_heads: int, head_dim: int, axis: Literal["time", "space"], interpret: bool = False
) -> jax.Array:
    """Softmax attention of each token to those that share its position ("time") or its frame ("space").

    Args:
      qkv_BTSC: projected tokens, the channels ordered as this file says.
      num_heads: heads in the array at hand, one device's where they are split.
      head_dim: channels of a head.
      axis: "time" or "space".
      interpret: run as plain JAX operations, on any device; for tests.

    Returns:
      [B, T, S, D] in the input's dtype, the channels ordered (head), (head_dim). Softmax and sums are float32.
    """
    return _Call.of(qkv_BTSC, num_heads, head_dim, axis, interpret).forward(qkv_BTSC)


def _attend_forward(qkv_BTSC, *static):
    # Named here, where the backward pass takes it from: whoever recomputes may keep it.
    out_BTSD = checkpoint_name(attend(qkv_BTSC, *static), OUTPUT_NAME)
    return out_BTSD, (qkv_BTSC, out_BTSD)


def _attend_backward(num_heads, head_dim, axis, interpret, kept, grad_BTSD):
    qkv_BTSC, out_BTSD = kept
    return (_Call.of(qkv_BTSC, num_heads, head_dim, axis, interpret).backward(qkv_BTSC, out_BTSD, grad_BTSD),)


attend.defvjp(_attend_forward, _attend_backward)


@dataclasses.dataclass(frozen=True)
class _Call:
    """One kernel on arrays of one shape: its grid, its blocks, and what it costs.

    Attributes:
      block: (frames, tokens) that a block holds.
      tokens: of a frame; a block may reach beyond them.
    """

    shape: tuple[int, int, int, int]
    dtype: jnp.dtype
    head_dim: int
    width: int
    axis: str
    block: tuple[int, int]
    interpret: bool

    @classmethod
    def of(cls, qkv_BTSC: jax.Array, num_heads: int, head_dim: int, axis: str, interpret: bool) -> "_Call":
        _, frames, tokens, _ = qkv_BTSC.shape
        width = heads_per_group(num_heads, head_dim) * head_dim
        block = (1, tokens) if axis == "space" else (frames, _positions(frames, tokens))
        return cls(qkv_BTSC.shape, qkv_BTSC.dtype, head_dim, width, axis, block, interpret)

    @property
    def grid(self) -> tuple[int, int, int, int]:
        """(batch, frame, tokens, head group), in blocks."""
        batch, frames, tokens, channels = self.shape
        return batch, frames // self.block[0], -(-tokens // self.block[1]), channels // (3 * self.width)

    def forward(self, qkv_BTSC):
        return self._run(self._forward_block, "forward", (qkv_BTSC,), (3,), 1, matmuls=2)

    def backward(self, qkv_BTSC, out_BTSD, grad_BTSD):
        return self._run(self._backward_block, "backward", (qkv_BTSC, out_BTSD, grad_BTSD), (3, 1, 1), 3, matmuls=5)

    def _run(self, body, name: str, arrays, widths: tuple[int, ...], out_width: int, matmuls: int):
        """A pallas_call of `body`; `widths` of operands and result are in units of a head group's lanes."""
        out_shape = (*self.shape[:3], self.shape[3] // 3 * out_width)
        return pl.pallas_call(
            body,
            grid=self.grid,
            in_specs=[self._block_spec(width) for width in widths],
            out_specs=self._block_spec(out_width),
            out_shape=jax.ShapeDtypeStruct(out_shape, self.dtype),
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel",) * len(self.grid), vmem_limit_bytes=VMEM_BYTES
            ),
            cost_estimate=self._cost(matmuls, sum(widths) + out_width),
            interpret=self.interpret,
            name=f"{self.axis}_attention_{name}",
            metadata={"grid_steps": str(math.prod(self.grid))},
        )(*arrays)

    def _block_spec(self, width: int) -> pl.BlockSpec:
        return pl.BlockSpec((1, *self.block, width * self.width), lambda *indices: indices)

    def _cost(self, matmuls: int, width: int) -> pl.CostEstimate:
        batch, frames, tokens, channels = self.shape
        size = batch * frames * tokens * channels // 3
        keys = tokens if self.axis == "space" else frames
        return pl.CostEstimate(
            flops=2 * matmuls * size * keys,
            transcendentals=size // self.head_dim * keys,
            bytes_accessed=size * width * jnp.dtype(self.dtype).itemsize,
        )

    def _forward_block(self, qkv_ref, out_ref):
        query_RW, key_RW, value_RW = self._load_qkv(qkv_ref)
        for rows in self._query_rows():
            bias_RR, out = self._bias(rows), _Lanes(self.width)
            for head in self._heads():
                exp_RR, total_R1 = self._softmax(head.only(query_RW[rows]), key_RW[:, head.lanes], bias_RR)
                out.add(head, _dot(exp_RR.astype(self.dtype), value_RW[:, head.lanes], 1, 0) / total_R1)
            self._store(out_ref, rows, 0, out.joined())

    def _backward_block(self, qkv_ref, attended_ref, grad_ref, out_ref):
        """With P the probabilities, dO the gradient of the output O = P V, and S = Q K' * scale:

        dV = P' dO, dP = dO V', dS = P * (dP - rowsum(dO * O)), dQ = dS K * scale, dK = dS' Q * scale.
        P is exp / total; the division moves to dO, which has fewer columns.
        """
        query_RW, key_RW, value_RW = self._load_qkv(qkv_ref)
        attended_RW, grad_RW = self._load(attended_ref, 0), self._load(grad_ref, 0)
        grad_key, grad_value = _Lanes(self.width), _Lanes(self.width)
        for rows in self._query_rows():
            bias_RR, grad_query = self._bias(rows), _Lanes(self.width)
            for head in self._heads():
                query, key = head.only(query_RW[rows]), key_RW[:, head.lanes]
                exp_RR, total_R1 = self._softmax(query, key, bias_RR)
                grad = head.only(grad_RW[rows]).astype(jnp.float32) / total_R1
                mean_R1 = jnp.sum(grad * attended_RW[rows, head.lanes].astype(jnp.float32), axis=1, keepdims=True)
                grad = grad.astype(self.dtype)
                grad_probs_RR = _dot(grad, value_RW[:, head.lanes], 1, 1)
                grad_scores_RR = (exp_RR * (grad_probs_RR - mean_R1)).astype(self.dtype)
                grad_value.add(head, _dot(exp_RR.astype(self.dtype), grad, 0, 0))
                grad_key.add(head, _dot(grad_scores_RR, query, 0, 0))
                grad_query.add(head, _dot(grad_scores_RR, key, 1, 0))
            self._store(out_ref, rows, 0, grad_query.joined() * self._scale)
        every = slice(0, self._num_rows)
        self._store(out_ref, every, 1, grad_key.joined() * self._scale)
        self._store(out_ref, every, 2, grad_value.joined())

    def _softmax(self, query, key, bias_RR):
        """exp(scores - their row's maximum), and the rows' sums to divide by."""
        scores_RR = _dot(query, key, 1, 1)
        if bias_RR is not None:
            scores_RR = scores_RR + bias_RR
        from_max_RR = scores_RR - jnp.max(scores_RR, axis=1, keepdims=True)
        exp_RR = jnp.exp2(from_max_RR * (self._scale * math.log2(math.e)))  # exp would multiply once more
        return exp_RR, jnp.sum(exp_RR, axis=1, keepdims=True)

    @property
    def _scale(self) -> float:
        return self.head_dim**-0.5

    @property
    def _num_rows(self) -> int:
        return self.block[0] * self.block[1]

    def _heads(self) -> Iterator["_Head"]:
        return (_Head(start, self.head_dim, self.width) for start in range(0, self.width, self.head_dim))

    def _query_rows(self) -> list[slice]:
        """The rows of a block in nearly equal parts of at most QUERY_ROWS."""
        parts = -(-self._num_rows // QUERY_ROWS)
        size = _round_up(-(-self._num_rows // parts), SUBLANES if self.axis == "space" else self.block[1])
        return [slice(start, min(start + size, self._num_rows)) for start in range(0, self._num_rows, size)]

    def _bias(self, rows: slice):
        """Over time: 0 between rows of one position, MASKED between others. Rows are (frame, position)."""
        if self.axis == "space":
            return None
        shape = (rows.stop - rows.start, self._num_rows)  # rows start with a frame, so that position 0 is the first
        row, column = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) % self.block[1] for axis in (0, 1))
        return jnp.where(row == column, 0.0, MASKED)

    def _load_qkv(self, ref):
        return [self._load(ref, part) for part in range(3)]

    def _load(self, ref, part: int):
        """A third of a block as [R, W]; what lies beyond the last token is unknown and becomes 0."""
        values = ref[0, :, :, part * self.width : (part + 1) * self.width]
        beyond = self.shape[2] % self.block[1]
        if beyond:
            left = self.shape[2] - pl.program_id(2) * self.block[1]
            values = jnp.where(jax.lax.broadcasted_iota(jnp.int32, values.shape, 1) < left, values, 0)
        return values.reshape(self._num_rows, self.width)

    def _store(self, ref, rows: slice, part: int, values_RW):
        """Puts rows [R, W] back where `_load` found them."""
        lanes = slice(part * self.width, (part + 1) * self.width)
        values_RW = values_RW.astype(self.dtype)
        if self.block[0] == 1:
            ref[0, 0, rows, lanes] = values_RW
        else:
            tokens = self.block[1]
            frames = slice(rows.start // tokens, rows.stop // tokens)
            ref[0, frames, :, lanes] = values_RW.reshape(-1, tokens, self.width)


@dataclasses.dataclass(frozen=True)
class _Head:
    """Where a head lies among the lanes of its group."""

    start: int
    head_dim: int
    width: int

    @property
    def lanes(self) -> slice:
        """The lanes of the head, rounded out to whole tiles."""
        end = _round_up(self.start + self.head_dim, LANES)
        return slice(self.start // LANES * LANES, min(end, self.width))

    def mask(self, shape: tuple[int, int]):
        lane = jax.lax.broadcasted_iota(jnp.int32, shape, 1) + self.lanes.start
        return (lane >= self.start) & (lane < self.start + self.head_dim)

    def only(self, values_RW):
        """Its tiles, its neighbours' lanes in them zeroed."""
        tiles = values_RW[:, self.lanes]
        return jnp.where(self.mask(tiles.shape), tiles, 0)


class _Lanes:
    """A group's lanes, put together from its heads' tiles, which overlap."""

    def __init__(self, width: int):
        self._tile = min(LANES, width)
        self._tiles = [None] * -(-width // self._tile)
        self._width = width

    def add(self, head: _Head, values) -> None:
        """Adds a head's tiles, of which only its own lanes count; later rows add to earlier ones."""
        values = jnp.where(head.mask(values.shape), values, 0.0)
        first = head.lanes.start // self._tile
        for index in range(-(-values.shape[1] // self._tile)):
            part = values[:, index * self._tile : (index + 1) * self._tile]
            held = self._tiles[first + index]
            self._tiles[first + index] = part if held is None else held + part

    def joined(self):
        return jnp.concatenate(self._tiles, axis=1) if len(self._tiles) > 1 else self._tiles[0]


def _positions(frames: int, tokens: int) -> int:
    """Positions of a block over time: whole tiles of them that give at least TIME_ROWS rows, or all there are."""
    return min(tokens, SUBLANES * max(1, TIME_ROWS // (SUBLANES * frames)))


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _dot(left, right, left_axis: int, right_axis: int):
    """A matrix product over these axes, float32."""
    return jax.lax.dot_general(
        left, right, (((left_axis,), (right_axis,)), ((), ())), preferred_element_type=jnp.float32
    )
