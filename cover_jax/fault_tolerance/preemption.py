"""Handles SIGTERM, SIGHUP and Ctrl-C: training continues to a step on which all hosts agree, and saves it.

Before JAX's distributed runtime starts, our own handler records the signal. After that, on several hosts, JAX handles
SIGTERM and chooses the step; the other signals are passed on to it as SIGTERM.
"""

import itertools
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

from cover_jax.parallel import hosts


class PreemptionNotice:
    """Records whether this process was told to save and end."""

    def __init__(self):
        self._received, self._interrupted, self._jax_handles = threading.Event(), threading.Event(), False
        # JAX makes all hosts leave at the number after the highest number that any host has asked with (0 if none has).
        # So these numbers start at 1. With step numbers, a run that continues from step 35 would ask with 36 first, and
        # would miss a signal from before that.
        self._asked = itertools.count(1)

    def receive(self, number: int, *_) -> None:
        """The handler of SIGTERM and SIGHUP. With it the signal alone does not end this process."""
        self._received.set()
        if self._jax_handles and number != signal.SIGTERM:
            os.kill(os.getpid(), signal.SIGTERM)

    def interrupt(self) -> bool:
        """Ctrl-C. Returns whether it came for the first time, so that the step is saved."""
        first = not self._interrupted.is_set()
        self._interrupted.set()
        if first:
            self.receive(signal.SIGINT)
        return first

    def hand_over(self) -> None:
        """Passes an earlier signal on to JAX, which handles later ones. Call after jax.distributed.initialize."""
        self._jax_handles = True
        if self._received.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    def is_interrupt(self) -> bool:
        """Whether Ctrl-C on any host is why the run ends. All hosts must call it together."""
        return any(hosts.exchange("interrupted" if self._interrupted.is_set() else ""))

    def is_reached(self) -> bool:
        """Whether to save this step and leave. All hosts must call it exactly once after every step."""
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(next(self._asked))
        return self._received.is_set()
