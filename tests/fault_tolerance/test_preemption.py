"""Hosts that agree on the step after which they leave; here each host is two threads."""

import random
import threading
import time

import pytest

from cover_jax.fault_tolerance import preemption
from cover_jax.parallel import hosts, jax_private

HOSTS = 3
STEP_S, END_S = 0.005, 20


class Cluster:
    """Hosts that take their steps together, and the texts that they show each other.

    Attributes:
        told: host -> set when it is told to end.
        left_after: host -> step.
        failing: share of the calls of the service that fail.
    """

    def __init__(self, patch: pytest.MonkeyPatch):
        self.texts, self.failing, self._host, self._rng = {}, 0.0, threading.local(), random.Random(0)
        self.told = [threading.Event() for _ in range(HOSTS)]
        self.agreements = [preemption.Agreement(told) for told in self.told]
        self.left_after: dict[int, int] = {}
        self._together = threading.Barrier(HOSTS, timeout=END_S)
        patch.setattr(hosts, "post", lambda key, text: self._call() or self.texts.setdefault(key, text))
        patch.setattr(hosts, "posted", lambda key: self._call() or self.texts.get(key))
        patch.setattr(hosts, "posted_below", self._below)
        patch.setattr(jax_private, "this_process", lambda: (self._host.index, HOSTS))
        patch.setattr(preemption, "POLL_S", STEP_S)
        patch.setattr(preemption, "AGREE_POLL_S", STEP_S)

    def _call(self) -> None:
        if self._rng.random() < self.failing:
            raise hosts.LostPeerError("this call has failed")

    def _below(self, folder: str) -> list[str]:
        self._call()
        return [text for key, text in list(self.texts.items()) if key.startswith(f"{folder}/")]

    def _agree(self, host: int) -> None:
        self._host.index = host
        self.agreements[host].wait()

    def _train(self, host: int, steps: int) -> None:
        """Each step is a collective: no host is a whole step ahead of another."""
        rng = random.Random(host)
        for step in range(1, steps + 1):
            self._together.wait()
            time.sleep(rng.uniform(0, STEP_S))
            if self.agreements[host].is_reached():
                self.left_after[host] = step
                return

    def start(self) -> None:
        """The threads that agree."""
        self._agreeing = [threading.Thread(target=self._agree, args=(host,), daemon=True) for host in range(HOSTS)]
        for thread in self._agreeing:
            thread.start()

    def train(self, steps: int, tell=lambda: None) -> None:
        """Trains on all hosts, calls `tell` meanwhile, and ends all threads."""
        trains = [threading.Thread(target=self._train, args=(host, steps), daemon=True) for host in range(HOSTS)]
        for thread in trains:
            thread.start()
        tell()
        for thread in trains:
            thread.join(END_S)
        for agreement in self.agreements:
            agreement.stop()
        for thread in self._agreeing:
            thread.join(END_S)
        assert not any(thread.is_alive() for thread in trains + self._agreeing), "they wait for each other"


@pytest.fixture
def cluster(monkeypatch):
    return Cluster(monkeypatch)


@pytest.mark.parametrize("failing", [0.0, 0.5])
@pytest.mark.parametrize("told", [[0], [2], [0, 1, 2]], ids=str)
@pytest.mark.parametrize("after_s", [0.0, 0.03])
def test_all_leave_after_one_step(cluster, told, after_s, failing):
    def tell():
        time.sleep(after_s)
        for host in told:
            cluster.told[host].set()

    cluster.failing = failing
    cluster.start()
    cluster.train(5000, tell)
    assert len(cluster.left_after) == HOSTS and len(set(cluster.left_after.values())) == 1, cluster.left_after


def test_who_is_told_before_the_first_step_leaves_after_it(cluster):
    cluster.told[1].set()
    cluster.start()
    for thread in cluster._agreeing:
        thread.join(END_S)
    cluster.train(60)
    assert cluster.left_after == dict.fromkeys(range(HOSTS), 1)


def test_without_a_word_all_steps_are_taken(cluster):
    cluster.start()
    cluster.train(60)
    assert cluster.left_after == {} and cluster.texts == {}


def test_a_host_that_goes_on_after_a_rollback_leaves_after_its_next_step(cluster):
    cluster.told[0].set()
    cluster.start()
    cluster.train(60)
    assert all(agreement.is_reached() for agreement in cluster.agreements)
