"""What the hosts of a run tell each other beside their computations: short texts, through JAX's coordination service.

Unlike collectives these work while a device computes, and say who is missing.
"""

import itertools

import jax

# The service has no public name; orbax reaches it in the same way.
from jax._src import distributed

from cover_jax import errors

# The lifeline ends a host that waits for one that is gone, and the watchdog one that waits for too long.
_NO_TIMEOUT_MS = 7 * 24 * 3600 * 1000

_exchanges = itertools.count()


class LostPeerError(RuntimeError):
    """Another host has gone, or says nothing. The message names it."""

    exit_code = errors.LOST_PEER


def client():
    """This process's connection to the coordination service; None where there is only one process."""
    return distributed.global_state.client if jax.distributed.is_initialized() else None


def exchange(mine: str) -> list[str]:
    """What each host says, in their order; all must call this equally often, in the same order.

    Raises:
        LostPeerError: JAX's service is gone.
    """
    if client() is None:
        return [mine]
    key = f"cover/exchange/{next(_exchanges)}"
    client().key_value_set(f"{key}/{jax.process_index()}", mine)
    return [_answer(f"{key}/{host}", host) for host in range(jax.process_count())]


def _answer(key: str, host: int) -> str:
    try:
        return client().blocking_key_value_get(key, _NO_TIMEOUT_MS)
    except jax.errors.JaxRuntimeError as error:
        raise LostPeerError(f"host {host} has said nothing: {error}") from error


def print_on_host0(text: str) -> None:
    """Prints on the first host only, at once."""
    if jax.process_index() == 0:
        print(text, flush=True)
