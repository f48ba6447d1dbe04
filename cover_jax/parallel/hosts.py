"""Exchanges short texts between the hosts of a run, through JAX's coordination service.

Unlike collectives, these exchanges work while a device computes, and an error names the missing host.
"""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from cover_jax import errors
from cover_jax.parallel import jax_private

# The peer monitor ends a host that waits for a lost host. The watchdog ends a host that waits too long.
_NO_TIMEOUT_MS = 7 * 24 * 3600 * 1000

END_TIMEOUT_S = 300  # JAX's default
_NO_CLUSTER = (
    "--distributed: JAX finds no other hosts: this is no TPU slice, and no SLURM step (srun); leave the flag out on a "
    "single machine, or name the hosts with --num_processes=N, --process_id=I and, to train, --coordinator=HOST:PORT"
)

UNKNOWN = "unknown"  # in a table for `agree`: agrees with any value

_SHOWN_CHARACTERS = 200  # of a value that differs

# JAX's service stores each text under its key until the service ends, so each exchange needs its own key.
_exchange_numbers = itertools.count()


class LostPeerError(RuntimeError):
    """Another host is gone, or does not answer. The message names it."""

    exit_code = errors.LOST_PEER


class HostsDifferError(errors.ConfigError):
    """Hosts were started with different configs, code or data. The message names the first difference and the host."""


@dataclasses.dataclass(frozen=True)
class Coordinator:
    """How the hosts of a run find each other if JAX does not find them automatically.

    Attributes:
        address: HOST:PORT of process 0.
        num_processes: number of processes of the run.
        process_id: index of this process, from 0.
    """

    address: str
    num_processes: int
    process_id: int


def connect(
    coordinator: Coordinator | None,
    *,
    timeout_s: int,
    end_timeout_s: int = END_TIMEOUT_S,
    heartbeat_timeout_s: int | None = None,
) -> None:
    """Starts JAX's distributed runtime. Must be called before anything else asks for devices.

    Args:
        coordinator: None: JAX finds the hosts automatically (TPU, SLURM).
        timeout_s: JAX aborts this process after this time without the other hosts.
        end_timeout_s: how long a process that is done waits for the others to end; then JAX aborts those.
        heartbeat_timeout_s: JAX aborts all after this time without the heartbeat of a host; None: `timeout_s`.

    Raises:
        LostPeerError: the hosts have not found each other.
        ConfigError: nothing tells JAX who the hosts are.
    """
    global _exchange_numbers
    by_hand: tuple[str | None, int | None, int | None] = (None, None, None)
    if coordinator is not None:
        by_hand = (coordinator.address, coordinator.num_processes, coordinator.process_id)
    config: Any = jax.config  # not all of jax's versions declare its settings
    before = config.jax_enable_preemption_service
    # JAX's handler of SIGTERM would replace ours, see `preemption`. Only `initialize` reads this.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            *by_hand,
            initialization_timeout=timeout_s,
            heartbeat_timeout_seconds=timeout_s if heartbeat_timeout_s is None else heartbeat_timeout_s,
            shutdown_timeout_seconds=end_timeout_s,
        )
    except RuntimeError as error:
        raise LostPeerError(f"the hosts have not found each other: {error}") from error
    except ValueError as error:
        if coordinator is not None:
            raise
        raise errors.ConfigError(_NO_CLUSTER) from error
    finally:
        jax.config.update("jax_enable_preemption_service", before)
    _exchange_numbers = itertools.count()  # a new service starts without keys


def post(key: str, text: str) -> None:
    """Shows a text to all hosts, under a key. The first text of a key stays.

    Raises:
        LostPeerError: JAX's service is gone, or this call has failed.
    """
    with _unless("ALREADY_EXISTS"):
        jax_private.coordination_client().key_value_set(key, text)


def posted(key: str) -> str | None:
    """The text that a host has shown under a key; None: none has yet.

    Raises:
        LostPeerError: as for `post`.
    """
    with _unless("NOT_FOUND"):
        text: str = jax_private.coordination_client().key_value_try_get(key)
        return text
    return None


def posted_below(folder: str) -> list[str]:
    """The texts that hosts have shown so far under all keys FOLDER/NAME.

    Raises:
        LostPeerError: as for `post`.
    """
    with _unless("NOT_FOUND"):
        return [text for _, text in jax_private.coordination_client().key_value_dir_get(folder)]
    return []


@contextlib.contextmanager
def _unless(status: str) -> Iterator[None]:
    """Raises a LostPeerError for an error of JAX's service, but not if it has this status."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if status not in str(error):
            raise LostPeerError(f"host 0 does not answer: {error}") from error


def exchange(mine: str) -> list[str]:
    """Sends this host's text to all hosts. Returns the texts of all hosts, in host order.

    Raises:
        LostPeerError: JAX's service is gone.
    """
    client = jax_private.coordination_client()
    if client is None:
        return [mine]
    key = f"cover/exchange/{next(_exchange_numbers)}"
    index, count = jax_private.this_process()
    client.key_value_set(f"{key}/{index}", mine)
    return [_answer(client, f"{key}/{host}", host) for host in range(count)]


def agree(mine: Mapping[str, str]) -> None:
    """Refuses to go on if the hosts have different tables. All hosts call it, with what they must have in common.

    Each host compares its table with that of the first host, so a table may have thousands of entries. What a host does
    not know (UNKNOWN) is not compared; what only the first host does not know, the others send it to compare.

    Raises:
        HostsDifferError: on all hosts, with the same message.
        LostPeerError: JAX's service is gone.
    """
    client = jax_private.coordination_client()
    if client is None:
        return
    key = f"cover/agree/{next(_exchange_numbers)}"
    index, count = jax_private.this_process()
    if index == 0:
        client.key_value_set(f"{key}/0", json.dumps(mine))
        found = [answer for host in range(1, count) if (answer := _answer(client, f"{key}/{host}", host)) != "same"]
        if not found and UNKNOWN in mine.values():
            known = {host: json.loads(_answer(client, f"{key}/known/{host}", host)) for host in range(1, count)}
            found = _differences_of_others(known)
        more = f"; so do {len(found) - 1} more hosts" if len(found) > 1 else ""
        client.key_value_set(f"{key}/all", found[0] + more if found else "same")
    else:
        theirs = json.loads(_answer(client, f"{key}/0", 0))
        client.key_value_set(f"{key}/{index}", difference(theirs, mine, index) or "same")
        known = {name: mine[name] for name, value in theirs.items() if value == UNKNOWN and name in mine}
        client.key_value_set(f"{key}/known/{index}", json.dumps(known))
    if (result := _answer(client, f"{key}/all", 0)) != "same":
        raise HostsDifferError(result)


def difference(first: Mapping[str, str], mine: Mapping[str, str], host: int, first_host: int = 0) -> str:
    """The first difference between the table of `first_host` and that of `host`, in words; "" if there is none."""
    for name in [*first, *(name for name in mine if name not in first)]:
        there, here = first.get(name), mine.get(name)
        if there != here and UNKNOWN not in (there, here):
            there, here = (_shortened(value) for value in (there, here))
            return (
                f"host {host} differs from host {first_host}: {name}: {there} on host {first_host}, {here} on host "
                f"{host}; must be the same"
            )
    return ""


def _differences_of_others(tables: Mapping[int, Mapping[str, str]]) -> list[str]:
    """The differences between hosts other than the first one, in words: at most one per host.

    Args:
        tables: host -> what it has where the first host has UNKNOWN.
    """
    found: list[str] = []
    first_hosts: dict[str, int] = {}
    for host, table in tables.items():
        for name, value in table.items():
            if value == UNKNOWN:
                continue
            first_host = first_hosts.setdefault(name, host)
            if text := difference({name: tables[first_host][name]}, {name: value}, host, first_host):
                found.append(text)
                break
    return found


def _shortened(value: str | None) -> str:
    if value is None:
        return "nothing"
    return value if len(value) <= _SHOWN_CHARACTERS else f"{value[:_SHOWN_CHARACTERS]}..."


def _answer(client, key: str, host: int) -> str:
    try:
        return client.blocking_key_value_get(key, _NO_TIMEOUT_MS)
    except jax.errors.JaxRuntimeError as error:
        raise LostPeerError(f"host {host} did not answer: {error}") from error


def print_on_host0(text: str) -> None:
    """Prints on the first host only, and flushes."""
    if jax.process_index() == 0:
        print(text, flush=True)
