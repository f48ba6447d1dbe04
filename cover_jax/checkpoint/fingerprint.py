"""Fingerprints of arrays: two 32-bit sums over all elements. They change if any bit of any element changes.

A sum does not depend on how it is split: a leaf has the same fingerprint on every mesh, on any number of hosts, and in
NumPy. The position of an element is mixed in, so that swapped elements are detected. One changed element always changes
both sums, because its term is a bijection of its bits. Larger damage passes with a probability of 1 in 2**64.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cover_jax import errors
from cover_jax.parallel import compilation

_LANES = (0x0, 0x4D)  # two sums, made independent by a constant mixed into the position
_CHUNK = 1 << 20  # elements per NumPy call: small enough for the processor's cache
_UNSIGNED = {1: "uint8", 2: "uint16", 4: "uint32"}

_Bits = TypeVar("_Bits", jax.Array, np.ndarray)  # uint32 of any shape


def fingerprint_tree(tree: object) -> dict[str, np.ndarray]:
    """Path of each leaf -> uint32 [2], computed on the devices in one pass, with 8 bytes per leaf sent to the host.

    All hosts must call this together. It runs leaf by leaf: leaves of one shape share a program, and XLA's collectives
    on CPUs deadlock if many programs run at once.

    Args:
        tree: jax arrays with 1, 2 or 4 bytes per element.

    Raises:
        ReplicasDifferError: two devices of this host hold different copies of a leaf.
    """
    copies = {path: _copies(_program(leaf.sharding)(leaf)) for path, leaf in _leaves(tree)}
    return {path: _only(path, of_devices) for path, of_devices in copies.items()}


class ReplicasDifferError(RuntimeError):
    """Devices hold different copies of what must be one array. The message names the leaf."""

    exit_code = errors.NOT_SAVED


def _copies(sums: jax.Array) -> list[np.ndarray]:
    """The two sums as each device of this host has computed them, from its own copy of a leaf or of its shards."""
    return [np.asarray(shard.data) for shard in sums.addressable_shards]


def _only(path: str, copies: list[np.ndarray]) -> np.ndarray:
    for number, copy in enumerate(copies):
        if not np.array_equal(copy, copies[0]):
            raise ReplicasDifferError(f"{path}: the copy on local device {number} differs from that on device 0")
    return copies[0]


@functools.cache
def _program(sharding: jax.sharding.Sharding) -> Callable[[jax.Array], jax.Array]:
    """Jitted for arrays on the devices of `sharding`. Every device gets the result."""
    everywhere = NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else sharding
    program: Callable[[jax.Array], jax.Array] = compilation.jit(fingerprint_array, out_shardings=everywhere)
    return program


def fingerprint_host_tree(tree: object) -> dict[str, np.ndarray]:
    """The same for NumPy arrays, without a device."""
    return {path: _fingerprint_host_array(np.asarray(leaf)) for path, leaf in _leaves(tree)}


def as_json(fingerprints: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Path of each leaf -> 16 hexadecimal digits."""
    return {path: "".join(f"{int(lane):08x}" for lane in lanes) for path, lanes in fingerprints.items()}


def paths(tree: object) -> list[str]:
    """The paths of the tree's leaves, in order."""
    return [path for path, _ in _leaves(tree)]


def _leaves(tree: object) -> list[tuple[str, Any]]:
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def fingerprint_array(x: jax.Array) -> jax.Array:
    """The two sums of an array, uint32 [2]. The caller jits it."""
    bits = jax.lax.bitcast_convert_type(x, _UNSIGNED[x.dtype.itemsize]).astype(jnp.uint32)
    position = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        position = position * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    return jnp.stack([jnp.sum(_mix(bits + _scatter(position, lane)), dtype=jnp.uint32) for lane in _LANES])


def _fingerprint_host_array(x: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(x).reshape(-1).view(_UNSIGNED[x.dtype.itemsize])
    sums = np.zeros(len(_LANES), np.uint32)
    for start in range(0, bits.size, _CHUNK):
        chunk = bits[start : start + _CHUNK].astype(np.uint32)
        position = np.arange(start, start + chunk.size).astype(np.uint32)
        for i, lane in enumerate(_LANES):
            sums[i : i + 1] += np.sum(_mix(chunk + _scatter(position, lane)), dtype=np.uint32)
    return sums


def _scatter(position: _Bits, lane: int) -> _Bits:
    """The value added to the bits at a position: the first half of MurmurHash3's finalizer over a multiple of it."""
    h = position * np.uint32(0x9E3779B1) + np.uint32(lane)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0x85EBCA77)
    return (h ^ (h >> np.uint32(13))) | np.uint32(1)


def _mix(z: _Bits) -> _Bits:
    """A bijection of 32 bits: each output bit depends on all input bits (https://nullprogram.com/blog/2018/07/31/)."""
    z = (z ^ (z >> np.uint32(16))) * np.uint32(0x7FEB352D)
    z = (z ^ (z >> np.uint32(15))) * np.uint32(0x846CA68B)
    mixed: _Bits = z ^ (z >> np.uint32(16))
    return mixed
