"""What the hosts of a run tell each other beside their computations: short texts, through JAX's coordination service.

Unlike collectives these work while a device computes, and name the host that is missing.
"""

import dataclasses
import itertools

import jax

from cover_jax import errors
from cover_jax.parallel import jax_private

# The peer monitor ends a host that waits for one that is gone, and the watchdog one that waits for too long.
_NO_TIMEOUT_MS = 7 * 24 * 3600 * 1000

# JAX's service keeps each text under its key until it ends, so that each exchange has a key of its own.
_exchange_numbers = itertools.count()


class LostPeerError(RuntimeError):
    """Another host has gone, or says nothing. The message names it."""

    exit_code = errors.LOST_PEER


@dataclasses.dataclass(frozen=True)
class Coordinator:
    """How the hosts of a run find each other where they do not by themselves.

    Attributes:
        address: HOST:PORT of process 0.
        num_processes: of the run.
        process_id: which of them this is, from 0.
    """

    address: str
    num_processes: int
    process_id: int


def connect(coordinator: Coordinator | None, *, timeout_s: int, preemptible: bool) -> None:
    """Starts JAX's distributed runtime; before anything else asks for devices.

    Args:
        coordinator: None: the hosts find each other by themselves (TPU, SLURM).
        timeout_s: after which JAX aborts this process, if it finds no other host or another host's heartbeat stops.
        preemptible: JAX takes SIGTERM, see `preemption`.

    Raises:
        LostPeerError: the hosts have not found each other.
    """
    global _exchange_numbers
    by_hand: tuple[str | None, int | None, int | None] = (None, None, None)
    if coordinator is not None:
        by_hand = (coordinator.address, coordinator.num_processes, coordinator.process_id)
    before = jax.config.jax_enable_preemption_service  # type: ignore[attr-defined]
    jax.config.update("jax_enable_preemption_service", preemptible)  # read by `initialize` alone
    try:
        jax.distributed.initialize(*by_hand, initialization_timeout=timeout_s, heartbeat_timeout_seconds=timeout_s)
    except RuntimeError as error:
        raise LostPeerError(f"the hosts have not found each other: {error}") from error
    finally:
        jax.config.update("jax_enable_preemption_service", before)
    _exchange_numbers = itertools.count()  # the service is a new one


def exchange(mine: str) -> list[str]:
    """What each host says, in their order; all must call this equally often, in the same order.

    Raises:
        LostPeerError: JAX's service is gone.
    """
    client = jax_private.coordination_client()
    if client is None:
        return [mine]
    key = f"cover/exchange/{next(_exchange_numbers)}"
    client.key_value_set(f"{key}/{jax.process_index()}", mine)
    return [_answer(client, f"{key}/{host}", host) for host in range(jax.process_count())]


def _answer(client, key: str, host: int) -> str:
    try:
        return client.blocking_key_value_get(key, _NO_TIMEOUT_MS)
    except jax.errors.JaxRuntimeError as error:
        raise LostPeerError(f"host {host} has said nothing: {error}") from error


def print_on_host0(text: str) -> None:
    """Prints on the first host only, at once."""
    if jax.process_index() == 0:
        print(text, flush=True)
