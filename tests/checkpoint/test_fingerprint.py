"""A fingerprint sees every changed bit, and neither mesh nor library."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cover_jax.checkpoint import fingerprint
from tests.helpers import small

TREE = {
    "matrix": np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32),
    "bfloat16": np.asarray(jnp.arange(64, dtype=jnp.bfloat16).reshape(8, 8)),
    "step": np.int32(7),
    "bytes": np.arange(40, dtype=np.uint8),
    "empty": np.zeros((0, 3), np.float32),
}


def of_host(tree):
    return fingerprint.as_json(fingerprint.fingerprint_host_tree(tree))


@pytest.mark.parametrize("spec", [PartitionSpec(), PartitionSpec("data"), PartitionSpec("fsdp", "data")])
def test_the_same_on_every_mesh_and_in_numpy(spec):
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"))
    splits = {"matrix": spec, "bfloat16": spec}
    placed = {
        name: jax.device_put(leaf, NamedSharding(mesh, splits.get(name, PartitionSpec())))
        for name, leaf in TREE.items()
    }
    assert fingerprint.as_json(fingerprint.fingerprint_tree(placed)) == of_host(TREE)


def test_numpy_in_pieces_gives_the_same(monkeypatch):
    whole = of_host(TREE)
    monkeypatch.setattr(fingerprint, "_CHUNK", 7)
    assert of_host(TREE) == whole


def test_it_is_frozen():
    """Checkpoints of before must stay verifiable."""
    assert of_host({"a": np.arange(5, dtype=np.float32)}) == {"a": "77e0c16c15677a9a"}


def test_every_single_bit_is_seen_in_both_sums():
    matrix = TREE["matrix"]
    (before,) = fingerprint.fingerprint_host_tree([matrix]).values()
    for bit in range(0, matrix.nbytes * 8, 5):
        flipped = matrix.copy()
        flipped.view(np.uint8).reshape(-1)[bit // 8] ^= 1 << bit % 8
        (after,) = fingerprint.fingerprint_host_tree([flipped]).values()
        assert np.all(after != before), bit


def test_exchanged_elements_and_a_moved_bit_are_seen():
    x = np.zeros((4, 8), np.uint32)
    x[0, 0] = 1
    assert len({of_host([np.roll(x, shift)])["0"] for shift in range(x.size)}) == x.size
    assert of_host([TREE["matrix"].T])["0"] != of_host([TREE["matrix"]])["0"]


def test_a_whole_training_state():
    trainer = small.Trainer(small.config(optimizer__ema_decay=0.9, mesh__fsdp=4, mesh__tensor=2, mesh__data=1))
    trainer("video")
    found = fingerprint.as_json(fingerprint.fingerprint_tree(trainer.state))
    assert found == of_host(jax.device_get(trainer.state))
    assert "params/backbone/cls_token" in found and "step" in found


def test_copies_that_differ_are_found():
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    everywhere = NamedSharding(mesh, PartitionSpec())
    copies = [jax.device_put(np.arange(4.0, dtype=np.float32) + i, device) for i, device in enumerate(mesh.devices)]
    same = jax.device_put(np.ones(4, np.float32), everywhere)
    other = jax.make_array_from_single_device_arrays((4,), everywhere, copies)
    with pytest.raises(fingerprint.ReplicasDifferError, match="^w: the copy on local device 1 differs"):
        fingerprint.fingerprint_tree({"v": same, "w": other})
