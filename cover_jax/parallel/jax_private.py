"""JAX internals that this project needs. This is its only module that imports `jax._src`.

Its functions read `jax._src.distributed.global_state`, as orbax does. JAX 0.10.2 has no public name for it:
`jax.distributed` offers only `initialize`, `is_initialized` and `shutdown`.
"""

from typing import Any

import jax
from jax._src import distributed


def coordination_client() -> Any:
    """This process's client of JAX's coordination service; None if `jax.distributed` is not initialised.

    Used for short texts between hosts while their devices compute, with an error that names the missing host. The
    public `multihost_utils.process_allgather` and `broadcast_one_to_all` run on the devices, wait for their
    computations, and hang if a host is gone. A public key-value store in `jax.distributed` would replace this function.

    Returns:
        An object with `key_value_set(key, value)`, `blocking_key_value_get(key, timeout_ms)`, `key_value_try_get(key)`
        and `key_value_dir_get(folder)`.
    """
    return distributed.global_state.client if jax.distributed.is_initialized() else None


def this_process() -> tuple[int, int]:
    """(index of this process, number of processes); (0, 1) if `jax.distributed` is not initialised.

    The public `jax.process_index` and `jax.process_count` start the backend, which waits for all processes and may fail
    on one of them.
    """
    state = distributed.global_state
    return (state.process_id, state.num_processes) if jax.distributed.is_initialized() else (0, 1)


def coordinator_host() -> str:
    """Name or IP address of host 0, as all hosts reach it. Call it after `jax.distributed.initialize`.

    Used for our own connection to the same machine. If JAX finds the hosts automatically (TPU, SLURM), only JAX knows
    the address. `jax.distributed.initialize` would replace this function if it returned the address.
    """
    address = distributed.global_state.coordinator_address
    assert address is not None  # because it is initialised
    return address.rsplit(":", 1)[0].strip("[]")
