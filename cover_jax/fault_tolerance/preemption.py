"""SIGTERM, whenever it comes: training goes on to a step on which all hosts agree, and saves it.

Before JAX's distributed runtime is started a handler of ours notes the signal; from then on, on several hosts, JAX
listens and finds the step.
"""

import itertools
import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

_received = threading.Event()
# JAX has all hosts leave at the number after the highest that one of them had asked with, none being 0. So these begin
# at 1: by steps, a run that goes on from step 35 would ask with 36 first, and be past a signal from before that.
_asked = itertools.count(1)


def listen() -> None:
    """From here on SIGTERM does not end this process by itself. From the main thread, as signals are."""
    signal.signal(signal.SIGTERM, lambda *_: _received.set())


def hand_over() -> None:
    """Gives JAX, which listens from now on, the signal that came before; after jax.distributed.initialize."""
    if _received.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


def reached() -> bool:
    """Whether to save this step and leave; all hosts ask after every step, and nobody else does."""
    if jax.distributed.is_initialized():
        return multihost_utils.reached_preemption_sync_point(next(_asked))
    return _received.is_set()
