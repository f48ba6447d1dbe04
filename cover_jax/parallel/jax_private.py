"""JAX's internals that this project needs: the only module of its packages that imports `jax._src`.

Both functions ask `jax._src.distributed.global_state`, as orbax does. JAX 0.10.2 has no public name for it:
`jax.distributed` offers `initialize`, `is_initialized` and `shutdown` alone.
"""

from typing import Any

import jax
from jax._src import distributed


def coordination_client() -> Any:
    """This process's client of JAX's coordination service; None where `jax.distributed` is not initialised.

    Used for: short texts between hosts while their devices compute, with an error that names the host that is missing.
    The public `multihost_utils.process_allgather` and `broadcast_one_to_all` run on the devices, wait for what those
    compute, and hang where a host is gone. A public key-value store in `jax.distributed` would replace this function.

    Returns:
        An object with `key_value_set(key, value)` and `blocking_key_value_get(key, timeout_ms)`.
    """
    return distributed.global_state.client if jax.distributed.is_initialized() else None


def coordinator_host() -> str:
    """Name or IP address of the machine of host 0, as all hosts reach it; after `jax.distributed.initialize`.

    Used for: a connection of our own to the same machine. Where JAX finds the hosts by itself (TPU, SLURM) nobody else
    knows the address. `jax.distributed.initialize` would replace this function if it returned the address.
    """
    address = distributed.global_state.coordinator_address
    assert address is not None  # it is initialised
    return address.rsplit(":", 1)[0].strip("[]")
