"""All processes meet on the coordinator's port before JAX's distributed runtime starts there.

JAX ends processes with an abort and without a cause that a user could read if the port is taken, if two processes have
one id, or if one process is too many. So each process first connects to process 0, on the port that JAX uses next, and
says its id and the number of processes that it expects. Process 0 answers all of them when they are complete.
"""

import contextlib
import errno
import json
import os
import selectors
import socket
import time

from cover_jax.errors import ConfigError
from cover_jax.parallel.hosts import Coordinator, LostPeerError

_TAKEN_S = 5.0  # a process that has just ended may still have the port
_OTHER_ANSWER_S = 60.0  # the job before may still be ending, see peers: a lost machine is noticed after 25 s
_RETRY_S = 0.2
_ANSWER_BYTES = 1 << 16
_SETTINGS_FRAME = 4  # its type is the 4th byte of what a server of HTTP/2, as gRPC, says first (RFC 9113, section 4.1)
_RESOLVE_S = 10.0  # names of a machine that has just started may appear later


def check(coordinator: Coordinator) -> None:
    """Refuses an address or an id that cannot be right, without a connection.

    Raises:
        ConfigError: names the flag.
    """
    if coordinator.num_processes < 1:
        raise ConfigError(f"--num_processes={coordinator.num_processes}: must be at least 1")
    if not 0 <= coordinator.process_id < coordinator.num_processes:
        raise ConfigError(
            f"--process_id={coordinator.process_id}: must be from 0 to {coordinator.num_processes - 1}, below "
            f"--num_processes={coordinator.num_processes}"
        )
    _resolve(coordinator.address)


def meet(coordinator: Coordinator) -> None:
    """Waits until all processes of the run are there, each once. All processes call it.

    Raises:
        ConfigError: on all processes that are there: two have the same id, or they expect different numbers of
            processes. On this process: its port is taken, or something else answers on the coordinator's port.
        LostPeerError: the others are beyond the roll call, in JAX's runtime. They end when they miss this process, and
            then all can meet again.
    """
    if coordinator.process_id == 0:
        _call(coordinator)
    else:
        _answer(coordinator)


def _resolve(address: str) -> tuple[str, int]:
    """(IP address, port) of HOST:PORT."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ConfigError(f"--coordinator={address}: must be HOST:PORT, with a port from 1 to 65535")
    deadline = time.monotonic() + _RESOLVE_S
    while True:
        try:
            found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0][4]
            return str(found[0]), int(port)
        except OSError as error:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"--coordinator={address}: the host {host!r} cannot be resolved ({error.strerror}); must be the "
                    "name or the IP address of the machine of process 0"
                ) from error
        time.sleep(_RETRY_S)


def _call(coordinator: Coordinator) -> None:
    """Process 0: hears all processes, and answers."""
    with _listen(coordinator) as server, selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        present = _Present(coordinator.num_processes)
        selector.register(server, selectors.EVENT_READ)
        while not present.problem and not present.complete:
            for key, _ in selector.select():
                connection: socket.socket | None = key.data
                if connection is None:
                    connection = stack.enter_context(server.accept()[0])
                    selector.register(connection, selectors.EVENT_READ, connection)
                elif not present.hear(connection):
                    selector.unregister(connection)
                    connection.close()
        present.answer()
        if present.problem:
            raise ConfigError(present.problem)


class _Present:
    """The processes that process 0 has heard, of `num_processes` with itself."""

    def __init__(self, num_processes: int):
        self._num_processes = num_processes
        self._connections: dict[int, socket.socket] = {}  # by the id of the process
        self.problem = ""

    @property
    def complete(self) -> bool:
        """Whether all processes are there."""
        return len(self._connections) == self._num_processes - 1

    def hear(self, connection: socket.socket) -> bool:
        """Reads what has arrived. Returns False if the connection has ended: its process is gone, it may come again."""
        try:
            said = json.loads(connection.recv(_ANSWER_BYTES) or "null")
            index, expected = int(said["process_id"]), int(said["num_processes"])
        except (OSError, ValueError, TypeError, KeyError):  # it has ended, or it is no process of this project
            self._connections = {i: one for i, one in self._connections.items() if one is not connection}
            return False
        if expected != self._num_processes:
            self.problem = (
                f"--num_processes={expected} on process {index}, {self._num_processes} on process 0: must be the same"
            )
        elif index == 0 or (index in self._connections and _is_open(self._connections[index])):
            self.problem = f"--process_id={index}: two processes have this id; must be another one for each process"
        if self.problem:
            _tell(connection, self.problem)
        else:
            self._connections[index] = connection
        return True

    def answer(self) -> None:
        """Tells all processes what is wrong, or that they may go on."""
        for connection in self._connections.values():
            _tell(connection, self.problem)


def _tell(connection: socket.socket, problem: str) -> None:
    with contextlib.suppress(OSError):  # it is gone, which JAX or the peer monitor notices
        connection.sendall(json.dumps({"problem": problem}).encode() + b"\n")


def _is_open(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _answer(coordinator: Coordinator) -> None:
    """Another process than 0: says that it is there, and waits for the answer. Tries again until process 0 listens."""
    said = {"process_id": coordinator.process_id, "num_processes": coordinator.num_processes}
    others_until = None
    while True:
        answer = _ask(_resolve(coordinator.address), said, None)  # the watchdog limits the wait for all others
        if isinstance(answer, dict):
            if answer["problem"]:
                raise ConfigError(answer["problem"])
            return
        if answer:  # another server has the port, or the job runs already
            others_until = others_until or time.monotonic() + _OTHER_ANSWER_S
            if time.monotonic() > others_until:
                raise _other_answer(coordinator, answer)
        time.sleep(_RETRY_S)


def _other_answer(coordinator: Coordinator, answer: bytes) -> Exception:
    """What it means that the coordinator's port answers, but not with a roll call."""
    if len(answer) > 3 and answer[3] == _SETTINGS_FRAME:
        return LostPeerError(
            f"--coordinator={coordinator.address}: the run there has begun without this process. If process "
            f"{coordinator.process_id} was started again, the others miss it, end, and meet it at the next start; if "
            f"it is one process too many, raise --num_processes={coordinator.num_processes} or take a free port"
        )
    return ConfigError(f"--coordinator={coordinator.address}: another program has this port; take a free one")


def _ask(address: tuple[str, int], said: dict, wait_s: float | None) -> dict | bytes | None:
    """The answer of process 0; other bytes if it is another server; None if nothing listens there."""
    line = b""
    try:
        with socket.create_connection(address, timeout=_TAKEN_S) as connection:
            connection.settimeout(wait_s)
            with contextlib.suppress(OSError), connection.makefile("rb") as lines:  # it ends, or says nothing
                connection.sendall(json.dumps(said).encode() + b"\n")
                line = lines.readline(_ANSWER_BYTES)
    except OSError:
        return None
    try:
        answer = json.loads(line)
        return answer if isinstance(answer, dict) and "problem" in answer else line
    except ValueError:
        return line


def _listen(coordinator: Coordinator) -> socket.socket:
    """The port of the coordinator, open on this machine where JAX's service will open it next."""
    bind = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", "")
    host, port = _resolve(bind) if bind else ("", int(coordinator.address.rpartition(":")[2]))
    said = {"process_id": 0, "num_processes": coordinator.num_processes}
    deadline = time.monotonic() + _TAKEN_S
    while True:
        try:
            # A program that shares its port would not refuse another one. It may be a second process 0.
            answer = _ask((host or "127.0.0.1", port), said, _RETRY_S)
            if isinstance(answer, dict) and answer["problem"]:
                raise ConfigError(answer["problem"])
            if answer is not None:
                raise OSError(errno.EADDRINUSE, "another program listens on it")
            family = socket.AF_INET6 if ":" in host or (not host and socket.has_dualstack_ipv6()) else socket.AF_INET
            # As gRPC's servers: the port may be reserved by a socket that does not listen.
            return socket.create_server(
                (host, port), family=family, reuse_port=True, dualstack_ipv6=not host and family == socket.AF_INET6
            )
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise ConfigError(
                    f"--coordinator={coordinator.address}: port {port} cannot be opened on this machine, which is that "
                    f"of process 0: {error.strerror}; must be a free port"
                ) from error
        time.sleep(_RETRY_S)
