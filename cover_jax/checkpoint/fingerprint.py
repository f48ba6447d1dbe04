"""Fingerprints of arrays: two 32-bit sums over all elements that change with any bit of any of them.

A sum does not depend on who adds which part of it: a leaf has the same fingerprint on every mesh, on any number of
hosts, and in NumPy on one. Where an element stands goes in, so that exchanged elements show. One changed element always
changes both sums, since what is added for it is a bijection of its bits; of larger damage one in 2**64 would pass.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cover_jax.parallel import compilation

_LANES = (0x0, 0x4D)  # two sums, independent by what is mixed into the position
_CHUNK = 1 << 20  # elements that NumPy takes at a time: what they need stays in the processor's cache
_UNSIGNED = {1: "uint8", 2: "uint16", 4: "uint32"}

_Bits = TypeVar("_Bits", jax.Array, np.ndarray)  # uint32 of any shape


def fingerprint_tree(tree: object) -> dict[str, np.ndarray]:
    """Path of each leaf -> uint32 [2], computed where the leaves are: one pass over them, 8 bytes a leaf to the host.

    All hosts must call this together. Leaf by leaf: those of one shape share a program, and XLA's collectives on CPUs
    lock up if many programs are under way.

    Args:
        tree: jax arrays of 1, 2 or 4 bytes an element.
    """
    return {path: jax.device_get(_program(leaf.sharding)(leaf)) for path, leaf in _leaves(tree)}


@functools.cache
def _program(sharding: jax.sharding.Sharding) -> Callable[[jax.Array], jax.Array]:
    """Jitted for arrays on the devices of `sharding`; every device gets the result."""
    everywhere = NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else sharding
    program: Callable[[jax.Array], jax.Array] = compilation.jit(fingerprint_array, out_shardings=everywhere)
    return program


def fingerprint_host_tree(tree: object) -> dict[str, np.ndarray]:
    """The same of NumPy arrays, without a device."""
    return {path: _fingerprint_host_array(np.asarray(leaf)) for path, leaf in _leaves(tree)}


def as_json(fingerprints: Mapping[str, np.ndarray]) -> dict[str, str]:
    """16 hexadecimal digits for each leaf."""
    return {path: "".join(f"{int(lane):08x}" for lane in lanes) for path, lanes in fingerprints.items()}


def paths(tree: object) -> list[str]:
    """Of its leaves, in order."""
    return [path for path, _ in _leaves(tree)]


def _leaves(tree: object) -> list[tuple[str, Any]]:
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def fingerprint_array(x: jax.Array) -> jax.Array:
    """uint32 [2]; to be jitted."""
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
    """What is added to the bits at a position: the first half of MurmurHash3's finalizer over a multiple of it."""
    h = position * np.uint32(0x9E3779B1) + np.uint32(lane)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0x85EBCA77)
    return (h ^ (h >> np.uint32(13))) | np.uint32(1)


def _mix(z: _Bits) -> _Bits:
    """A bijection of 32 bits each of whose bits depends on all (https://nullprogram.com/blog/2018/07/31/)."""
    z = (z ^ (z >> np.uint32(16))) * np.uint32(0x7FEB352D)
    z = (z ^ (z >> np.uint32(15))) * np.uint32(0x846CA68B)
    mixed: _Bits = z ^ (z >> np.uint32(16))
    return mixed
