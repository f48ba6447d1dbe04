"""What hosts must have in common is compared, and the first difference named; with real hosts: test_disagreement.py."""

import concurrent.futures
import itertools
import threading
import types

import numpy as np
import pytest

from cover_jax.fault_tolerance import statements
from cover_jax.parallel import hosts, jax_private
from cover_jax.training import inputs
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


class Service:
    """What hosts use of JAX's coordination service, for hosts that are threads."""

    def __init__(self):
        self._texts, self._changed = {}, threading.Condition()

    def key_value_set(self, key, value):
        with self._changed:
            self._texts[key] = value
            self._changed.notify_all()

    def blocking_key_value_get(self, key, timeout_ms):
        with self._changed:
            assert self._changed.wait_for(lambda: key in self._texts, timeout=10), key
            return self._texts[key]


def agree_together(monkeypatch, *tables):
    """What `hosts.agree` says on each host; "" if they agree."""
    service, here = Service(), threading.local()
    monkeypatch.setattr(jax_private, "coordination_client", lambda: service)
    monkeypatch.setattr(jax_private, "this_process", lambda: (here.host, len(tables)))
    monkeypatch.setattr(hosts, "_exchange_numbers", itertools.repeat(0))

    def agree(host):
        here.host = host
        try:
            hosts.agree(tables[host])
        except hosts.HostsDifferError as error:
            return str(error)
        return ""

    with concurrent.futures.ThreadPoolExecutor(len(tables)) as pool:
        return list(pool.map(agree, range(len(tables))))


U = hosts.UNKNOWN


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("a", "a", "a"), ""),
        (("a", "a", "b"), "host 2 differs from host 0: records: a on host 0, b on host 2; must be the same"),
        (
            ("a", "b", "b"),
            "host 1 differs from host 0: records: a on host 0, b on host 1; must be the same; so do 1 more",
        ),
        (("a", U, U), ""),
        ((U, "a", "a"), ""),
        ((U, "a", U), ""),
        ((U, "a", "b"), "host 2 differs from host 1: records: a on host 1, b on host 2; must be the same"),
        ((U, U, "a", "b"), "host 3 differs from host 2: records: a on host 2, b on host 3; must be the same"),
    ],
)
def test_all_hosts_hear_the_same_and_what_one_does_not_know_the_others_compare(monkeypatch, values, message):
    found = agree_together(monkeypatch, *({"seed": "0", "records": value} for value in values))
    assert len(set(found)) == 1 and message in found[0] and bool(found[0]) == bool(message)


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


def split(*checksums):
    """A split of two records; without checksums if they are not known."""
    known = np.array(checksums, np.uint32) if checksums else None
    content = contents.of_records("train", [known], 2, {})
    return types.SimpleNamespace(class_names=("a",), num_examples=2, fingerprint="f" * 64, content=content)


def test_data_in_another_order_differs():
    first, other = (statements.of_data({"training": {"images": split(*sums)}}) for sums in ((1, 2), (2, 1)))
    assert "order of records in the training data of images" in hosts.difference(first, other, 1)
    assert hosts.difference(first, first, 1) == ""


def test_unknown_checksums_agree_with_any_and_it_is_said(monkeypatch, capsys):
    """One host reads a bucket that was prepared by an earlier version, the other a local copy of it."""
    known, unknown = ({"training": {"images": one}} for one in (split(1, 2), split()))
    for first, other in ((known, unknown), (unknown, known), (unknown, unknown)):
        assert hosts.difference(statements.of_data(first), statements.of_data(other), 1) == ""
    monkeypatch.setattr(hosts, "exchange", lambda mine: ["[]", mine])
    inputs.agree_on_data({"images": split()}, {})
    assert "same records in the training data of images cannot be checked: host 1 has no" in capsys.readouterr().out
    inputs.agree_on_data({"images": split(1, 2)}, {})
    monkeypatch.setattr(hosts, "exchange", lambda mine: [mine])
    inputs.agree_on_data({"images": split()}, {})
    assert not capsys.readouterr().out  # alone, there is nothing to compare
