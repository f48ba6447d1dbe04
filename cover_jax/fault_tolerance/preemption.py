"""Handles SIGTERM: training continues to a step on which all hosts agree, and saves it.

Before JAX's distributed runtime starts, our own handler records the signal. After that, on several hosts, JAX handles
the signal and chooses the step.
"""

import itertools
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils


class PreemptionNotice:
    """Records whether SIGTERM was received."""

    def __init__(self):
        self._received = threading.Event()
        # JAX makes all hosts leave at the number after the highest number that any host has asked with (0 if none has).
        # So these numbers start at 1. With step numbers, a run that continues from step 35 would ask with 36 first, and
        # would miss a signal from before that.
        self._asked = itertools.count(1)

    def receive(self, *_) -> None:
        """The handler of SIGTERM. With it the signal alone does not end this process."""
        self._received.set()

    def hand_over(self) -> None:
        """Passes an earlier signal on to JAX, which handles later ones. Call after jax.distributed.initialize."""
        if self._received.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    def is_reached(self) -> bool:
        """Whether to save this step and leave. All hosts must call it exactly once after every step."""
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(next(self._asked))
        return self._received.is_set()
