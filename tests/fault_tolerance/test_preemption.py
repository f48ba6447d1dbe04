"""Hosts that agree on the step after which they leave; here each host is two threads."""

import random
import threading
import time

import pytest

from cover_jax.fault_tolerance import preemption
from cover_jax.parallel import hosts, jax_private

HOSTS, STEPS = 3, 60
STEP_S = 0.005


class Cluster:
    """Hosts that take their steps together, and the texts that they show each other."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.texts, self.local = {}, threading.local()
        self.told = [threading.Event() for _ in range(HOSTS)]
        self.agreements = [preemption.Agreement(told) for told in self.told]
        self.left_after: dict[int, int] = {}
        self.together = threading.Barrier(HOSTS)
        patch.setattr(hosts, "post", lambda key, text: self.texts.setdefault(key, text))
        patch.setattr(hosts, "posted", self.texts.get)
        patch.setattr(jax_private, "this_process", lambda: (self.local.host, HOSTS))
        patch.setattr(preemption, "POLL_S", STEP_S)

    def agree(self, host: int) -> None:
        self.local.host = host
        self.agreements[host].wait()

    def train(self, host: int) -> None:
        """Each step is a collective: no host is a whole step ahead of another."""
        rng = random.Random(host)
        for step in range(1, STEPS + 1):
            self.together.wait()
            time.sleep(rng.uniform(0, STEP_S))
            if self.agreements[host].is_reached():
                self.left_after[host] = step
                return

    def run(self, tell) -> None:
        """Trains on all hosts, and calls `tell` meanwhile."""
        threads = [threading.Thread(target=self.agree, args=(host,)) for host in range(HOSTS)]
        trains = [threading.Thread(target=self.train, args=(host,)) for host in range(HOSTS)]
        for thread in threads + trains:
            thread.start()
        tell()
        for thread in trains:
            thread.join(timeout=20)
        for agreement in self.agreements:
            agreement.stop()
        for thread in threads:
            thread.join(timeout=20)
        assert not any(thread.is_alive() for thread in threads + trains), "they wait for each other"


@pytest.fixture
def cluster(monkeypatch):
    return Cluster(monkeypatch)


@pytest.mark.parametrize("told", [[0], [2], [0, 1, 2]], ids=str)
@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.07])
def test_all_leave_after_one_step(cluster, told, after_s):
    def tell():
        time.sleep(after_s)
        for host in told:
            cluster.told[host].set()

    cluster.run(tell)
    assert len(cluster.left_after) == HOSTS and len(set(cluster.left_after.values())) == 1, cluster.left_after


def test_who_is_told_before_the_first_step_leaves_after_it(cluster):
    cluster.told[1].set()
    for host in range(HOSTS):
        threading.Thread(target=cluster.agree, args=(host,)).start()
    while any(agreement._leave_at == 0 for agreement in cluster.agreements):
        time.sleep(STEP_S)
    cluster.run(lambda: None)
    assert cluster.left_after == dict.fromkeys(range(HOSTS), 1)


def test_without_a_word_all_steps_are_taken(cluster):
    cluster.run(lambda: None)
    assert cluster.left_after == {} and cluster.texts == {}
