"""Sharding: one mesh, one table of rules, and how a host's batch becomes a global array."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from einops import rearrange
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from cover_jax.errors import ConfigError
from data_pipelines.stream.batch import Batch

_Tree = TypeVar("_Tree")

# Logical axis of a parameter -> mesh axis. An axis that is not here is an error, never "replicated by default".
RULES = {
    "layers": None,
    "embed": "fsdp",
    # Output of temporal_fc. It is not split like the output of the projection before it: with (tensor, fsdp) twice in a
    # row, the partitioner of jax 0.10 and 0.12 mixes up the features of examples if data, fsdp and tensor all exceed 1.
    "joined": None,
    "heads": "tensor",
    "mlp": "tensor",
    "patch": None,
    "tokens": None,
    "norm": None,
    "classes": None,
}
BATCH = ("data", "fsdp")  # mesh axes that split a batch


def make_mesh(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh (data, fsdp, tensor) over `devices`, by default all devices.

    If the devices belong to several slices, which a slower network connects, the data axis is split over the slices.
    So only gradients cross between slices.

    Raises:
        ConfigError: the axes do not multiply to the number of devices, or slices do not divide the data axis.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(config, len(devices))
    return Mesh(_grid(shape, devices), tuple(shape), axis_types=(AxisType.Auto,) * 3)


def mesh_shape(config: ConfigDict, num_devices: int) -> dict[str, int]:
    """Axis -> number of devices along it, of `config.mesh` over this many devices.

    Raises:
        ConfigError: the axes do not multiply to the number of devices.
    """
    shape = {axis: config[axis] for axis in ("data", "fsdp", "tensor")}
    fixed = math.prod(size for size in shape.values() if size != -1)
    free = [axis for axis, size in shape.items() if size == -1]
    if num_devices % fixed or (not free and fixed != num_devices):
        sizes = ", ".join(f"config.mesh.{axis}={size}" for axis, size in shape.items())
        raise ConfigError(f"{sizes}: must multiply to the {num_devices} devices; one of them may be -1: all the rest")
    if free:
        shape[free[0]] = num_devices // fixed
    return shape


def _grid(shape: dict[str, int], devices: Sequence[jax.Device]) -> np.ndarray:
    """The devices in the shape of the mesh, with neighbouring devices next to each other."""
    slices = len({getattr(device, "slice_index", 0) for device in devices}) if devices[0].platform == "tpu" else 1
    if shape["data"] % slices:
        raise ConfigError(
            f"config.mesh.data={shape['data']}: must be a multiple of the {slices} slices, since parameters are not "
            "sharded across them; make config.mesh.fsdp or config.mesh.tensor smaller"
        )
    # A mesh axis may be part of an axis of the torus, for example fsdp=8 on v5p:4x4x4.
    if slices == 1:
        return mesh_utils.create_device_mesh(tuple(shape.values()), devices, allow_split_physical_axes=True)
    within = (shape["data"] // slices, shape["fsdp"], shape["tensor"])
    return mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1), devices, allow_split_physical_axes=True)


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of an array that every device holds completely."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding that splits the leading axis over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def num_batch_shards(mesh: Mesh) -> int:
    """Number of parts into which a batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


def state_shardings(state, axes, mesh: Mesh):
    """A sharding for every leaf of a TrainState.

    A parameter follows RULES. A leaf that mirrors a parameter (momentum, EMA) is sharded like it: its path ends with
    the parameter's path, and it has the same shape. Counters are replicated.

    Args:
        state: shapes of the whole state (jax.eval_shape).
        axes: the tree of state.params, with a tuple of logical axes per parameter.

    Raises:
        ValueError: an axis is not in RULES, or a leaf is neither a scalar nor mirrors a parameter.
        ConfigError: a mesh axis does not divide the size of a dimension.
    """
    is_axes = lambda node: isinstance(node, tuple)  # noqa: E731
    of_params = {_path(path): names for path, names in jax.tree_util.tree_leaves_with_path(axes, is_leaf=is_axes)}

    def one(path, leaf):
        if leaf.ndim == 0:
            return replicated(mesh)
        name = _path(path)
        owner = next((p for p in of_params if name == p or name.endswith(f"/{p}")), None)
        if owner is None:
            raise ValueError(f"{name}: belongs to no parameter, so no sharding rule applies")
        return NamedSharding(mesh, _spec(name, leaf.shape, of_params[owner], mesh))

    return jax.tree_util.tree_map_with_path(one, state)


def abstract(tree: _Tree, shardings: object) -> _Tree:
    """A tree of jax.ShapeDtypeStruct with the shapes and types of a tree's arrays, and these shardings."""
    shapes: _Tree = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)
    return shapes


def host_part(mesh: Mesh) -> tuple[int, int]:
    """The part of each batch that this host's devices hold: (index, number of equal parts).

    Hosts whose devices differ only along `tensor` hold the same part. If a mesh gives a host rows that are not
    consecutive (torus order on TPUs), a batch has the same examples as on one host, in another order.

    Raises:
        ValueError: the parts of two hosts overlap but are not the same.
    """
    rows: dict[int, set[int]] = {}  # host -> its batch shards
    indices: Mapping[Any, tuple[slice, ...]] = batch_sharding(mesh).devices_indices_map((num_batch_shards(mesh),))
    for device, (shard, *_) in indices.items():
        rows.setdefault(device.process_index, set()).add(shard.start or 0)
    parts = sorted({tuple(sorted(shards)) for shards in rows.values()})
    if sum(map(len, parts)) != num_batch_shards(mesh):
        raise ValueError(
            f"config.mesh {dict(mesh.shape)} over {len(rows)} hosts: some share only a part of their rows of a batch; "
            "hosts must hold the same rows or none in common"
        )
    return parts.index(tuple(sorted(rows[jax.process_index()]))), len(parts)


def put_batch(batch: Batch, mesh: Mesh) -> dict[str, jax.Array]:
    """This host's rows of a Batch -> global arrays. `index` becomes int32, JAX's widest integer by default."""
    sharding = batch_sharding(mesh)
    narrow: dict[str, Any] = {**batch, "index": batch["index"].astype(np.int32)}
    with jax.transfer_guard_host_to_device("allow"):  # with several hosts JAX treats this transfer as implicit
        return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in narrow.items()}


def constrain_batch(mesh: Mesh):
    """A function that keeps an activation split along its leading axis: weights are moved, activations are not."""
    sharding = batch_sharding(mesh)
    return lambda x: jax.lax.with_sharding_constraint(x, sharding)


def qkv_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of projected tokens [batch, frames, tokens, heads]."""
    return NamedSharding(mesh, PartitionSpec(BATCH, None, None, RULES["heads"]))


def cut_batch(mesh: Mesh, pieces: int):
    """A function [B, ...] -> [pieces, B / pieces, ...]. A piece takes every pieces-th example, so no example moves.

    It is a shard_map, so each device cuts its own examples and no frame moves between devices.
    """

    def cut(x):
        return rearrange(x, "(b s) ... -> s b ...", s=pieces)

    return jax.shard_map(cut, mesh=mesh, in_specs=PartitionSpec(BATCH), out_specs=PartitionSpec(None, BATCH))


def _spec(name: str, shape: tuple[int, ...], axes: tuple[str, ...], mesh: Mesh) -> PartitionSpec:
    if len(axes) != len(shape):
        raise ValueError(f"{name}: {len(shape)} dimensions {shape}, but logical axes {axes}")
    for axis, size in zip(axes, shape, strict=True):
        if axis not in RULES:
            raise ValueError(f"{name}: logical axis {axis!r} has no rule; known: {', '.join(RULES)}")
        mesh_axis = RULES[axis]
        shards = mesh.shape[mesh_axis] if mesh_axis else 1
        if size % shards:
            raise ConfigError(f"{name}: {axis}={size} is not divisible by config.mesh.{mesh_axis}={shards}")
    return PartitionSpec(*(RULES[axis] for axis in axes))


def _path(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
