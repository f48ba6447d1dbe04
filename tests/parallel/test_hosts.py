"""What hosts must have in common is compared, and the first difference named; with real hosts: test_disagreement.py."""

import types

import numpy as np
import pytest

from cover_jax.fault_tolerance import statements
from cover_jax.parallel import hosts
from data_pipelines.stream import contents

COMMON = {"--mode": "train", "config.seed": "0", "config.steps": "8"}


@pytest.mark.parametrize(
    ("mine", "message"),
    [
        ({}, ""),
        ({"config.steps": "9"}, "host 3 differs from host 0: config.steps: 8 on host 0, 9 on host 3"),
        (
            {"config.seed": "1", "config.steps": "9"},
            "host 3 differs from host 0: config.seed: 0 on host 0, 1 on host 3",
        ),
        ({"config.new": "1"}, "host 3 differs from host 0: config.new: nothing on host 0, 1 on host 3"),
        ({"config.seed": "1" * 500}, f"config.seed: 0 on host 0, {'1' * 200}... on host 3"),
    ],
    ids=["none", "one", "the first of two", "a new one", "a long one"],
)
def test_the_first_difference_is_named(mine, message):
    found = hosts.difference(COMMON, COMMON | mine, 3)
    assert message in found and bool(found) == bool(message)


def test_alone_a_host_agrees_with_itself():
    hosts.agree(COMMON)


def test_the_command_is_described_without_what_is_a_host_s_own(monkeypatch):
    config = {"optimizer.learning_rate": 0.1, "data_dir": "/here"}
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/tmp/host1 --xla_cpu_max_isa=AVX2")
    described = statements.of_command(config, "train")
    assert described["config.optimizer.learning_rate"] == "0.1"
    assert described["environment variable XLA_FLAGS"] == "--xla_cpu_max_isa=AVX2"
    assert "config.data_dir" not in described
    assert {"version of jax", "version of cover_jax", "hash of cover_jax/main.py", "--mode"} <= described.keys()
    assert statements.of_command(config | {"data_dir": "/there"}, "train") == described


def test_data_in_another_order_differs():
    def split(*checksums):
        content = contents.of_records("train", [np.array(checksums, np.uint32)], 2, {})
        return types.SimpleNamespace(class_names=("a",), num_examples=2, fingerprint="f" * 64, content=content)

    first, other = (statements.of_data({"training": {"images": split(*sums)}}) for sums in ((1, 2), (2, 1)))
    assert "order of records in the training data of images" in hosts.difference(first, other, 1)
    assert hosts.difference(first, first, 1) == ""
