"""One table of rules for every parameter, and the same losses on any number of devices and any axis."""

import collections
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from configs import common
from cover_jax.parallel import sharding
from tests.helpers import small


@pytest.fixture
def mesh():
    return sharding.make_mesh(mesh_config(data=1, fsdp=4, tensor=2))


def mesh_config(**sizes):
    config = common.mesh()
    config.update(sizes)
    return config


def test_minus_one_takes_all_devices_that_are_left():
    assert dict(sharding.make_mesh(mesh_config(tensor=2)).shape) == {"data": 4, "fsdp": 1, "tensor": 2}
    assert dict(sharding.make_mesh(mesh_config(data=2, fsdp=-1)).shape) == {"data": 2, "fsdp": 4, "tensor": 1}


@pytest.mark.parametrize("sizes", [{"fsdp": 3}, {"data": 2}, {"data": 16}])
def test_a_mesh_that_is_not_the_devices_is_refused(sizes):
    with pytest.raises(ValueError, match=r"config.mesh.data=.* must multiply to the 8 devices"):
        sharding.make_mesh(mesh_config(**sizes))


def test_rules(mesh):
    shape = jax.ShapeDtypeStruct((3, 64, 192), jnp.float32)
    state = {"params": {"qkv": shape}, "mu": {"0": {"qkv": shape}}, "step": jax.ShapeDtypeStruct((), jnp.int32)}
    found = sharding.state_shardings(state, {"qkv": ("layers", "embed", "heads")}, mesh)
    assert found["params"]["qkv"].spec == found["mu"]["0"]["qkv"].spec == PartitionSpec(None, "fsdp", "tensor")
    assert found["step"].is_fully_replicated


@pytest.mark.parametrize(
    ("axes", "shape", "message"),
    [
        (("layers", "depth"), (3, 4), "'depth' has no rule"),
        (("embed",), (6,), r"embed=6 is not divisible by config.mesh.fsdp=4"),
        (("embed",), (4, 4), "2 dimensions"),
    ],
)
def test_a_parameter_without_a_rule_is_refused(mesh, axes, shape, message):
    with pytest.raises(ValueError, match=f"params/w.*{message}"):
        sharding.state_shardings({"params": {"w": jax.ShapeDtypeStruct(shape, jnp.float32)}}, {"w": axes}, mesh)


def test_an_array_of_no_parameter_is_refused(mesh):
    with pytest.raises(ValueError, match="extra: belongs to no parameter"):
        sharding.state_shardings({"extra": jax.ShapeDtypeStruct((4,), jnp.float32)}, {"w": ("norm",)}, mesh)


def test_parameters_are_born_sharded():
    trainer = small.Trainer(small.config(mesh__fsdp=2, mesh__tensor=2, optimizer__name="adamw"))
    kernel = trainer.state.params["backbone"]["blocks"]["time"]["qkv"]["kernel"]
    assert kernel.sharding.spec == PartitionSpec(None, "fsdp", "tensor")
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    moments = jax.tree.leaves(trainer.state.opt_state)
    assert any(m.shape == kernel.shape and m.sharding == kernel.sharding for m in moments)


class Layout:
    """A batch in four shards, of which each device of `held`, (host, shard), holds one."""

    def __init__(self, held):
        self._held = held

    def devices_indices_map(self, shape):
        assert shape == (4,)
        return {Device(i, host): (slice(shard, shard + 1),) for i, (host, shard) in enumerate(self._held)}


Device = collections.namedtuple("Device", ["id", "process_index"])
FOUR_SHARDS = types.SimpleNamespace(shape={"data": 4, "fsdp": 1, "tensor": 1})


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ([(0, 0), (0, 1), (1, 2), (1, 3)], [(0, 2), (1, 2)]),
        ([(1, 0), (1, 1), (0, 2), (0, 3)], [(1, 2), (0, 2)]),
        ([(0, 0), (1, 1), (0, 2), (1, 3)], [(0, 2), (1, 2)]),
        ([(0, 0), (1, 0), (0, 1), (1, 1), (2, 2), (3, 2), (2, 3), (3, 3)], [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ],
    ids=["side by side", "backwards", "in turn", "shared along tensor"],
)
def test_each_host_reads_the_rows_that_its_devices_hold(monkeypatch, held, expected):
    monkeypatch.setattr(sharding, "batch_sharding", lambda mesh: Layout(held))
    for host, part in enumerate(expected):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        assert sharding.host_part(FOUR_SHARDS) == part


def test_hosts_that_share_some_of_their_rows_are_refused(monkeypatch):
    monkeypatch.setattr(sharding, "batch_sharding", lambda mesh: Layout([(0, 0), (0, 1), (1, 1), (1, 2), (2, 3)]))
    with pytest.raises(ValueError, match="over 3 hosts: some share only a part of their rows"):
        sharding.host_part(FOUR_SHARDS)


AUGMENT = {"crop": "area", "flip": True, "mixup_alpha": 0.5, "erase_prob": 0.5, "color_prob": 0.5}
EACH_AXIS_ALONE = [(2, 1, 1), (8, 1, 1), (1, 8, 1), (1, 1, 4)]  # a mesh takes 20 CPU-seconds, most of it compilation
MESHES = [*(pytest.param(mesh, marks=pytest.mark.slow) for mesh in EACH_AXIS_ALONE), (2, 2, 2)]


def losses(data, fsdp, tensor):
    """Losses of six steps, with augmentation, drop-path, pieces and a padded example."""
    config = small.config(
        mesh__data=data, mesh__fsdp=fsdp, mesh__tensor=tensor, optimizer__name="adamw",
        optimizer__learning_rate=1e-3, optimizer__grad_accum_steps=2, optimizer__ema_decay=0.9, plan="joint",
    )  # fmt: skip
    for dataset in config.datasets.values():
        dataset.batch_size = 32
        dataset.augment.update(AUGMENT)
    trainer = small.Trainer(config)
    found = []
    for step in range(6):
        batches = {name: small.batch(config, name, seed=step) for name in small.NUM_CLASSES}
        batches["video"]["weight"][11] = 0
        measured = trainer.step({name: trainer.put(b) for name, b in batches.items()})
        found.append([measured[f"{name}/loss"][0] / measured[f"{name}/loss"][1] for name in small.NUM_CLASSES])
    return np.array(found)


@pytest.fixture(scope="module")
def losses_of_one_device():
    return losses(1, 1, 1)


@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_losses_are_the_same_on_every_mesh(shape, losses_of_one_device):
    found = losses(*shape)
    assert np.ptp(found[:, 0]) > 1e-3, "nothing was learnt, so nothing was compared"
    np.testing.assert_allclose(found, losses_of_one_device, atol=1e-5, rtol=0)
