"""SIGTERM, whenever it comes: training goes on to a step on which all hosts agree, and saves it.

Before JAX's distributed runtime is started a handler of ours notes the signal; from then on, on several hosts, JAX
listens and finds the step.
"""

import os
import signal
import threading
from collections.abc import Callable

import jax

_received = threading.Event()


def listen() -> None:
    """From here on SIGTERM does not end this process by itself. From the main thread, as signals are."""
    signal.signal(signal.SIGTERM, lambda *_: _received.set())


def hand_over() -> None:
    """Gives JAX, which listens from now on, the signal that came before; after jax.distributed.initialize."""
    if _received.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


def reached(agreed: Callable[[int], bool], step: int) -> bool:
    """Whether to save this step and leave; all hosts ask after every step.

    Args:
        agreed: what several hosts ask.
    """
    return agreed(step) if jax.distributed.is_initialized() else _received.is_set()
