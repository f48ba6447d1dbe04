"""SIGTERM, whenever it comes: training goes on to a step on which all hosts agree, and saves it.

Before JAX's distributed runtime is started a handler of ours notes the signal. From then on, on several hosts, JAX
listens and finds the step.
"""

import itertools
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils


class PreemptionNotice:
    """Whether SIGTERM has come."""

    def __init__(self):
        self._received = threading.Event()
        # JAX has all hosts leave at the number after the highest that one of them had asked with, none being 0. So
        # these begin at 1: by steps, a run that goes on from step 35 would ask with 36 first, and be past a signal from
        # before that.
        self._asked = itertools.count(1)

    def receive(self, *_) -> None:
        """The handler of SIGTERM, which then does not end this process by itself."""
        self._received.set()

    def hand_over(self) -> None:
        """Gives JAX, which listens from now on, the signal that came before; after jax.distributed.initialize."""
        if self._received.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    def is_reached(self) -> bool:
        """Whether to save this step and leave; all hosts ask after every step, and nobody else does."""
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(next(self._asked))
        return self._received.is_set()
