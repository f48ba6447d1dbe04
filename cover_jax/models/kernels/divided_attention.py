"""TPU kernels for attention over time or within each frame, forward and backward. Scores never leave the chip.

The kernels read the projection's output in place: nothing is sliced, padded or transposed in memory. For this, its
channels are ordered (tile), (query, key, value), (lane). A tile has 128 lanes, or one wide head. So a block of three
tiles holds all data of its heads.

Two heads of 64 share a tile and are computed together, with a mask over the lanes of each: a matrix unit always works
on 128 lanes. Heads of 80 or 88 cross from one tile into the next. Each is computed separately, with its lanes shifted
to the start of a tile. The part of its result in the next tile is kept until the next head is computed.

Attention over time computes a group of positions at once, as rows (frame, position) of one matrix, and masks the
scores between different positions. A block has several groups: the compiler overlaps their work.
"""

# B batch, T frames, S tokens of a frame, C = 3 * D channels, D width, R rows of a block, W lanes in use

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES = 128
SUBLANES = 16  # of a bfloat16 tile: rows, and positions of a time block, are cut at multiples of it
POSITIONS = 8  # a group has a multiple of it: fewer positions mean fewer masked scores, but a tile has no fewer
TIME_ROWS = 128  # minimum rows of a group: with fewer, rows of the matrix units would be empty
# Scores of a time block with several groups, at most, for a head of a tile: the compiler keeps them in fast memory, and
# v4 has 16 MiB. Half as many if heads cross tiles.
BLOCK_SCORES = 1 << 18
QUERY_ROWS = 256  # rows of scores at a time: this project's choice, from the compiler's schedules
VMEM_BYTES = 64 << 20
# v4, v5e, v5p and v6e, as JAX names devices. Not TPU7x: the time kernel compiles between matrix products, but no whole
# step was compiled. That of cover_l for tpu7x:4x4x4 was ended after 316 CPU seconds, without a word of the compiler.
COMPILED_KINDS = ("TPU v4", "TPU v5 lite", "TPU v5", "TPU v6 lite")
COMPILED_HEAD_DIMS = (64, 80, 88)
COMPILED_FRAMES = 128  # of a clip
COMPILED_TOKENS = 1025  # of a frame
OUTPUT_NAME = "attention"  # of the result, for jax.checkpoint_policies
MASKED = -1e30  # finite: the scores of a fully masked row must not become NaN

Axis = Literal["time", "space"]
Ref = Any  # a block in the chip's memory, read and written by indexing; JAX has no public type for it
Refs = Sequence[Ref]


def tile_lanes(num_heads: int, head_dim: int) -> int:
    """Lanes per tile: 128, or one head of a multiple of 128; all lanes if the heads do not fill whole tiles."""
    tile = head_dim if head_dim % LANES == 0 else LANES
    return num_heads * head_dim if head_dim > tile or num_heads * head_dim % tile else tile


def was_compiled(device_kind: str, head_dim: int, dtype: jnp.dtype, num_frames: int, num_tokens: int) -> bool:
    """Whether the kernels are known to compile at this size: the sizes in cover_jax/plan/README.md."""
    known = device_kind in COMPILED_KINDS and head_dim in COMPILED_HEAD_DIMS and dtype == jnp.bfloat16
    return known and num_frames <= COMPILED_FRAMES and num_tokens <= COMPILED_TOKENS


def fills_lanes(num_heads: int, head_dim: int) -> bool:
    """Whether the kernels work on a TPU without masking more lanes than a head's own tile has."""
    return tile_lanes(num_heads, head_dim) % LANES == 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def attend(qkv_BTSC: jax.Array, num_heads: int, head_dim: int, axis: Axis, interpret: bool = False) -> jax.Array:
    """Softmax attention of each token to the tokens at its position ("time") or in its frame ("space").

    Args:
        qkv_BTSC: projected tokens, with channels in the order of this module's docstring.
        num_heads: heads in this array: those of one device if heads are split.
        head_dim: channels per head.
        axis: "time" or "space".
        interpret: run as plain JAX operations, on any device; for tests.

    Returns:
        [B, T, S, D] in the input's dtype, with channels ordered (head), (head_dim). Softmax and sums are float32.
    """
    return _Call.of(qkv_BTSC, num_heads, head_dim, axis, interpret).forward(qkv_BTSC)


def _attend_forward(
    qkv_BTSC: jax.Array, num_heads: int, head_dim: int, axis: Axis, interpret: bool
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # The backward pass uses this value. The name lets a rematerialisation policy keep it.
    out_BTSD = checkpoint_name(attend(qkv_BTSC, num_heads, head_dim, axis, interpret), OUTPUT_NAME)
    return out_BTSD, (qkv_BTSC, out_BTSD)


def _attend_backward(
    num_heads: int,
    head_dim: int,
    axis: Axis,
    interpret: bool,
    kept: tuple[jax.Array, jax.Array],
    grad_BTSD: jax.Array,
) -> tuple[jax.Array]:
    qkv_BTSC, out_BTSD = kept
    return (_Call.of(qkv_BTSC, num_heads, head_dim, axis, interpret).backward(qkv_BTSC, out_BTSD, grad_BTSD),)


attend.defvjp(_attend_forward, _attend_backward)


@dataclasses.dataclass(frozen=True)
class _Call:
    """One kernel on arrays of one shape: its grid, its blocks and its cost.

    Attributes:
        lanes: lanes per tile.
        block: (frames, tokens) per block. A block may reach beyond the last token.
        positions: tokens of a block that are computed together; a block has a multiple of it.
    """

    shape: tuple[int, int, int, int]
    dtype: jnp.dtype
    head_dim: int
    lanes: int
    axis: Axis
    block: tuple[int, int]
    positions: int
    interpret: bool

    @classmethod
    def of(cls, qkv_BTSC: jax.Array, num_heads: int, head_dim: int, axis: Axis, interpret: bool) -> "_Call":
        batch, frames, tokens, channels = qkv_BTSC.shape
        lanes = tile_lanes(num_heads, head_dim)
        shape = (batch, frames, tokens, channels)
        if axis == "space":
            return cls(shape, qkv_BTSC.dtype, head_dim, lanes, axis, (1, tokens), tokens, interpret)
        positions = _positions(frames, tokens)
        most = BLOCK_SCORES // (1 if lanes % head_dim == 0 else 2) // (frames * positions) ** 2
        block = (frames, positions * _groups(positions, tokens, most))
        return cls(shape, qkv_BTSC.dtype, head_dim, lanes, axis, block, positions, interpret)

    @property
    def grid(self) -> tuple[int, int, int, int]:
        """(batch, frame, tokens, tile), in blocks. If heads cross tiles, the last axis counts heads."""
        batch, frames, tokens, channels = self.shape
        along_lanes = channels // (3 * (self.head_dim if self._crossing else self.lanes))
        return batch, frames // self.block[0], -(-tokens // self.block[1]), along_lanes

    def forward(self, qkv_BTSC: jax.Array) -> jax.Array:
        return self._run(self._forward_block, "forward", (qkv_BTSC,), (3,), 1, matmuls=2)

    def backward(self, qkv_BTSC: jax.Array, out_BTSD: jax.Array, grad_BTSD: jax.Array) -> jax.Array:
        return self._run(self._backward_block, "backward", (qkv_BTSC, out_BTSD, grad_BTSD), (3, 1, 1), 3, matmuls=5)

    def _run(
        self,
        body: Callable[..., None],
        name: str,
        arrays: tuple[jax.Array, ...],
        widths: tuple[int, ...],
        out_width: int,
        matmuls: int,
    ) -> jax.Array:
        """A pallas_call of `body`. `widths` of operands and result are in tiles.

        `body` gets one block per operand, or two blocks if heads cross from one tile into the next.
        """
        each = 1 + self._crossing

        def with_blocks(*refs: Ref) -> None:
            operands = [refs[start : start + each] for start in range(0, each * len(arrays), each)]
            body(*operands, refs[each * len(arrays) :])

        kernel: Callable[..., jax.Array] = pl.pallas_call(
            with_blocks,
            grid=self.grid,
            in_specs=[self._block_spec(width, ahead) for width in widths for ahead in range(each)],
            out_specs=self._block_spec(out_width),
            out_shape=jax.ShapeDtypeStruct((*self.shape[:3], self.shape[3] // 3 * out_width), self.dtype),
            scratch_shapes=[pltpu.VMEM((math.prod(self.block), out_width * self.lanes), self.dtype)] * self._crossing,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "parallel", "arbitrary" if self._crossing else "parallel"),
                vmem_limit_bytes=VMEM_BYTES,
            ),
            cost_estimate=self._cost(matmuls, each * sum(widths) + out_width),
            interpret=self.interpret,
            name=f"{self.axis}_attention_{name}",
            metadata={"grid_steps": str(math.prod(self.grid))},
        )
        return kernel(*(array for array in arrays for _ in range(each)))

    def _block_spec(self, width: int, ahead: int = 0) -> pl.BlockSpec:
        """The block of a grid step, or of the next tile. The last tile has no next tile, and no head crosses it."""
        last = self.shape[3] // (3 * self.lanes) - 1

        def place(batch: Any, frame: Any, tokens: Any, step: Any) -> tuple[Any, ...]:  # indices of the grid, traced
            tile = jax.lax.div(step * self.head_dim, self.lanes) if self._crossing else step
            return batch, frame, tokens, jnp.minimum(tile + ahead, last)

        return pl.BlockSpec((1, *self.block, width * self.lanes), place)

    def _cost(self, matmuls: int, width: int) -> pl.CostEstimate:
        batch, frames, tokens, channels = self.shape
        size = batch * frames * tokens * channels // 3
        keys = tokens if self.axis == "space" else frames
        return pl.CostEstimate(
            flops=2 * matmuls * size * keys,
            transcendentals=size // self.head_dim * keys,
            bytes_accessed=size * width * jnp.dtype(self.dtype).itemsize,
        )

    def _forward_block(self, qkv_refs: Refs, out_refs: Refs) -> None:
        self._begin(out_refs)
        for first in range(0, self.block[1], self.positions):
            self._forward_group(first, qkv_refs, out_refs)

    def _forward_group(self, first: int, qkv_refs: Refs, out_refs: Refs) -> None:
        """The tokens of a block from `first` on that are computed together."""
        query_RW, key_RW, value_RW = self._load_qkv(qkv_refs, first)
        for rows in self._query_rows():
            bias_RR, out = self._bias(rows), None  # a block has at least one head
            for head in self._heads():
                exp_RR, total_R1 = self._softmax(head.only(query_RW[rows]), key_RW, bias_RR)
                out = _plus(out, head.only(_dot(exp_RR.astype(self.dtype), value_RW, 1, 0) / total_R1))
            assert out is not None
            self._store(out_refs, first, rows, 0, out)

    def _backward_block(self, qkv_refs: Refs, attended_refs: Refs, grad_refs: Refs, out_refs: Refs) -> None:
        self._begin(out_refs)
        for first in range(0, self.block[1], self.positions):
            self._backward_group(first, qkv_refs, attended_refs, grad_refs, out_refs)

    def _backward_group(self, first: int, qkv_refs: Refs, attended_refs: Refs, grad_refs: Refs, out_refs: Refs) -> None:
        """Gradients of query, key and value of the tokens from `first` on that are computed together.

        With P the probabilities, dO the gradient of the output O = P V, and S = Q K' * scale:

        dV = P' dO, dP = dO V', dS = P * (dP - rowsum(dO * O)), dQ = dS K * scale, dK = dS' Q * scale.
        P is exp / total. dO is divided instead, because it has fewer columns.
        """
        query_RW, key_RW, value_RW = self._load_qkv(qkv_refs, first)
        attended_RW, grad_RW = self._load(attended_refs, first, 0), self._load(grad_refs, first, 0)
        grad_key = grad_value = None
        for rows in self._query_rows():
            bias_RR, grad_query = self._bias(rows), None
            for head in self._heads():
                query = head.only(query_RW[rows])
                exp_RR, total_R1 = self._softmax(query, key_RW, bias_RR)
                grad = head.only(grad_RW[rows]).astype(jnp.float32) / total_R1
                mean_R1 = jnp.sum(grad * attended_RW[rows].astype(jnp.float32), axis=1, keepdims=True)
                grad = grad.astype(self.dtype)
                grad_probs_RR = _dot(grad, value_RW, 1, 1)
                grad_scores_RR = (exp_RR * (grad_probs_RR - mean_R1)).astype(self.dtype)
                grad_value = _plus(grad_value, head.only(_dot(exp_RR.astype(self.dtype), grad, 0, 0)))
                grad_key = _plus(grad_key, head.only(_dot(grad_scores_RR, query, 0, 0)))
                grad_query = _plus(grad_query, head.only(_dot(grad_scores_RR, key_RW, 1, 0)))
            assert grad_query is not None
            self._store(out_refs, first, rows, 0, grad_query * self._scale)
        assert grad_key is not None and grad_value is not None
        every = slice(0, self._num_rows)
        self._store(out_refs, first, every, 1, grad_key * self._scale)
        self._store(out_refs, first, every, 2, grad_value)

    def _softmax(self, query: jax.Array, key: jax.Array, bias_RR: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """exp(scores - row maximum), and the row sums that normalise it."""
        scores_RR = _dot(query, key, 1, 1)
        if bias_RR is not None:
            scores_RR = scores_RR + bias_RR
        from_max_RR = scores_RR - jnp.max(scores_RR, axis=1, keepdims=True)
        exp_RR = jnp.exp2(from_max_RR * (self._scale * math.log2(math.e)))  # exp would need one more multiplication
        return exp_RR, jnp.sum(exp_RR, axis=1, keepdims=True)

    @property
    def _scale(self) -> float:
        return float(self.head_dim**-0.5)

    @property
    def _num_rows(self) -> int:
        """Rows that are computed together."""
        return self.block[0] * self.positions

    @property
    def _crossing(self) -> bool:
        """Whether heads cross from one tile into the next."""
        return self.lanes % self.head_dim != 0

    def _heads(self) -> list["_Head"]:
        starts = range(0, 1 if self._crossing else self.lanes, self.head_dim)
        return [_Head(start, self.head_dim) for start in starts]

    def _start(self) -> jax.Array:
        """The lane of its tile where the head of this grid step begins."""
        return jax.lax.rem(pl.program_id(3) * self.head_dim, self.lanes)

    def _shift(self, values_RW: jax.Array, lanes: jax.Array) -> jax.Array:
        return pltpu.roll(values_RW.astype(jnp.float32), jax.lax.rem(lanes, 2 * self.lanes), axis=1)

    def _query_rows(self) -> list[slice]:
        """The rows of a block in nearly equal parts of at most QUERY_ROWS."""
        parts = -(-self._num_rows // QUERY_ROWS)
        size = _round_up(-(-self._num_rows // parts), SUBLANES if self.axis == "space" else self.positions)
        return [slice(start, min(start + size, self._num_rows)) for start in range(0, self._num_rows, size)]

    def _bias(self, rows: slice) -> jax.Array | None:
        """Mask over time: 0 between rows of the same position, otherwise MASKED. Rows are (frame, position)."""
        if self.axis == "space":
            return None
        shape = (rows.stop - rows.start, self._num_rows)  # rows start with a frame, so the first position is 0
        row, column = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) % self.positions for axis in (0, 1))
        return jnp.where(row == column, 0.0, MASKED)

    def _load_qkv(self, refs: Refs, first: int) -> list[jax.Array]:
        return [self._load(refs, first, part) for part in range(3)]

    def _load(self, refs: Refs, first: int, part: int) -> jax.Array:
        """A third of a group's channels as [R, W]. Values beyond the last token are undefined in memory, and become 0.

        If heads cross tiles, it is the head's tile: the lanes of the head, then some lanes of its neighbours.
        """
        lanes = slice(part * self.lanes, (part + 1) * self.lanes)
        values = jnp.concatenate([ref[0, :, first : first + self.positions, lanes] for ref in refs], axis=-1)
        beyond = self.shape[2] % self.block[1]
        if beyond:
            left = self.shape[2] - pl.program_id(2) * self.block[1] - first
            values = jnp.where(jax.lax.broadcasted_iota(jnp.int32, values.shape, 1) < left, values, 0)
        values_RW = values.reshape(self._num_rows, -1)
        if not self._crossing:
            return values_RW
        return self._shift(values_RW, 2 * self.lanes - self._start())[:, : self.lanes].astype(self.dtype)

    def _begin(self, out_refs: Refs) -> None:
        """Before the first head, no partial result is kept."""
        if self._crossing:
            waiting_ref = out_refs[1]

            @pl.when(pl.program_id(3) == 0)
            def _() -> None:
                waiting_ref[...] = jnp.zeros_like(waiting_ref)

    def _store(self, out_refs: Refs, first: int, rows: slice, part: int, values_RW: jax.Array) -> None:
        """Writes rows [R, W] to the place that `_load` reads."""
        lanes = slice(part * self.lanes, (part + 1) * self.lanes)
        out_ref, frames = out_refs[0], slice(rows.start // self.positions, rows.stop // self.positions)
        place: tuple[Any, ...] = (0, frames, slice(first, first + self.positions), lanes)
        if self.block[0] == 1:
            place = (0, 0, slice(first + rows.start, first + rows.stop), lanes)
        if self._crossing:
            waiting_ref, start = out_refs[1], self._start()
            # A group's rows follow those of the groups before it.
            waiting = slice(first * self.block[0] + rows.start, first * self.block[0] + rows.stop)
            held_RW = out_ref[place].reshape(-1, self.lanes)
            before_RW = jnp.where(start < self.head_dim, waiting_ref[waiting, lanes], held_RW).astype(jnp.float32)
            both_RW = self._shift(jnp.concatenate([values_RW, jnp.zeros_like(values_RW)], axis=1), start)
            waiting_ref[waiting, lanes] = both_RW[:, self.lanes :].astype(self.dtype)
            values_RW = before_RW + both_RW[:, : self.lanes]
        out_ref[place] = values_RW.astype(self.dtype).reshape(out_ref.at[place].shape)


@dataclasses.dataclass(frozen=True)
class _Head:
    """The position of a head among the lanes in use."""

    start: int
    head_dim: int

    def only(self, values_RW: jax.Array) -> jax.Array:
        """The values with the lanes of other heads set to zero."""
        lane = jax.lax.broadcasted_iota(jnp.int32, values_RW.shape, 1)
        return jnp.where((lane >= self.start) & (lane < self.start + self.head_dim), values_RW, 0)


def _plus(total: jax.Array | None, more: jax.Array) -> jax.Array:
    return more if total is None else total + more


def _positions(frames: int, tokens: int) -> int:
    """Positions per group: whole tiles with at least TIME_ROWS rows in total, or all positions."""
    return min(tokens, POSITIONS * max(1, TIME_ROWS // (POSITIONS * frames)))


def _groups(positions: int, tokens: int, most: int) -> int:
    """Groups of `positions` per time block: at most `most`, in whole tiles, and no more tokens than the array has.

    Each grid step is counted as one group more, so that neither the steps nor the positions beyond the last one are
    many.
    """
    total, step = -(-tokens // positions), -(-SUBLANES // positions)
    choices = range(step, min(most, tokens // positions) + 1, step)
    return min(choices, key=lambda groups: -(-total // groups) * (groups + 1), default=1)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _dot(left: jax.Array, right: jax.Array, left_axis: int, right_axis: int) -> jax.Array:
    """A float32 matrix product over these axes."""
    return jax.lax.dot_general(
        left, right, (((left_axis,), (right_axis,)), ((), ())), preferred_element_type=jnp.float32
    )
