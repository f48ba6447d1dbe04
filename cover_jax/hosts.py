"""What the hosts of a run tell each other beside their computations: short texts, through JAX's coordination service.

Unlike collectives these work while a device computes, have a deadline, and say who is missing.
"""

import itertools

import jax

# The service has no public name; orbax reaches it in the same way.
from jax._src import distributed

from cover_jax import exit_codes

TIMEOUT_S = 300  # until a host that says nothing is taken for lost

_exchanges = itertools.count()


class LostPeerError(RuntimeError):
    """Another host has gone, or says nothing. The message names it."""

    exit_code = exit_codes.LOST_PEER


def client():
    """This process's connection to the coordination service; None where there is only one process."""
    return distributed.global_state.client if jax.distributed.is_initialized() else None


def exchange(mine: str, timeout_s: float = TIMEOUT_S) -> list[str]:
    """What each host says, in their order; all must call this equally often, in the same order.

    Raises:
        LostPeerError: one has not said anything for `timeout_s`.
    """
    if client() is None:
        return [mine]
    key = f"cover/exchange/{next(_exchanges)}"
    client().key_value_set(f"{key}/{jax.process_index()}", mine)
    return [_answer(f"{key}/{host}", host, timeout_s) for host in range(jax.process_count())]


def _answer(key: str, host: int, timeout_s: float) -> str:
    try:
        return client().blocking_key_value_get(key, int(timeout_s * 1000))
    except jax.errors.JaxRuntimeError as error:
        raise LostPeerError(f"host {host} has said nothing for {timeout_s:.0f} s: {error}") from error


def say(text: str) -> None:
    """Prints on the first host only, at once."""
    if jax.process_index() == 0:
        print(text, flush=True)
