"""Tells all hosts immediately that one of them has ended, and why, over a connection from each host to the first host.

The connections last for the whole run. A host that fails reports its error. A host that is killed cannot report, but
its connection breaks. Both cases end all hosts within a second, with the cause on the last line. JAX alone would notice
only after its heartbeat timeout, and would not report the cause.
"""

import contextlib
import ctypes
import faulthandler
import json
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

from cover_jax import errors
from cover_jax.fault_tolerance.exit_process import exit_process
from cover_jax.parallel import hosts, jax_private

_CONNECT_TIMEOUT_S = 60
_ANSWER_S = 5.0  # time to wait for the first host's answer before this host ends without it
_FIRST_HOST_DELAY_S = 1.0  # JAX's service ends with the first host, and then aborts the others
_ACCEPT_POLL_S = 0.2
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # a lost machine is noticed after 25 s
_BYE = "bye"


@contextlib.contextmanager
def connected_peers() -> Iterator["PeerMonitor"]:
    """Connects this host to all others inside its `with` block. All hosts call it after jax.distributed.initialize.

    Leave the block when this host no longer needs the others. Hosts may leave in any order. If an exception leaves the
    block, the other hosts end as if this process had been killed.
    """
    host, _ = jax_private.this_process()
    with contextlib.ExitStack() as stack:
        token, port = secrets.token_hex(16), 0
        if host == 0:
            port = stack.enter_context(_Relay(token)).port
        else:
            stack.enter_context(delayed_aborts())
        port, token = json.loads(hosts.exchange(json.dumps([port, token]))[0])
        connection = socket.create_connection((jax_private.coordinator_host(), port), _CONNECT_TIMEOUT_S)
        monitor = stack.enter_context(PeerMonitor(connection, host, token))
        hosts.exchange("connected")  # no host may fail before the first host is connected to all
        yield monitor


@contextlib.contextmanager
def delayed_aborts() -> Iterator[None]:
    """Makes abort() wait for 6 s inside its `with` block, after it has printed the stacks of all threads.

    JAX's service ends with the first host, and JAX then aborts the other hosts. The peer monitor needs this time to
    report the cause. The handler of SIGABRT is C's sleep(): abort() calls sleep(SIGABRT), which takes 6 s, and then
    ends the process. A handler in Python would wait for the interpreter. If faulthandler is enabled, it stays above
    this handler: it prints the stacks at once, and then calls the handler below. JAX's setting
    `jax_enable_recoverability` is for the first host's service alone and does not keep the others from this abort.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    with _below_faulthandler():
        before = libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))
    try:
        yield
    finally:
        with _below_faulthandler():
            libc.signal(signal.SIGABRT, before)


@contextlib.contextmanager
def _below_faulthandler() -> Iterator[None]:
    """A signal handler that is set inside is the one that faulthandler's own calls."""
    is_enabled = faulthandler.is_enabled()
    faulthandler.disable()
    try:
        yield
    finally:
        if is_enabled:
            faulthandler.enable()


class PeerMonitor:
    """This host's connection to the first host. A thread reads from it."""

    def __init__(self, connection: socket.socket, host: int, token: str):
        self._socket, self._host, self._left = _with_keepalive(connection), host, False
        self._heard_bye = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="peer-monitor", daemon=True)
        _send(self._socket, [token, host])
        self._thread.start()

    def __enter__(self) -> "PeerMonitor":
        return self

    def __exit__(self, kind, *exception) -> None:
        self._left = True
        if kind is None:
            self._say_bye()
        with contextlib.suppress(OSError):  # the first host may have closed it already
            # After "bye" the first host closes its end, which ends the thread. Then no unread data is left. Closing a
            # connection with unread data would reset it, and "bye" could be lost.
            self._socket.shutdown(socket.SHUT_WR if kind is None else socket.SHUT_RDWR)
        self._thread.join(_ANSWER_S)
        self._socket.close()

    def end_all_hosts(self, code: int, cause: str) -> NoReturn:
        """Ends this process and all other hosts with `code`.

        If another host ended before, this process reports that host's cause and code instead.
        """
        line = f"error on host {self._host}: {cause}"
        _send(self._socket, {"code": code, "line": line})
        time.sleep(_ANSWER_S)  # the first host returns this report or an earlier one; either ends this process
        exit_process(code, line)

    def _say_bye(self) -> None:
        _send(self._socket, _BYE)
        if self._host == 0:  # its end breaks all connections, so the others must be informed first
            self._heard_bye.wait(_ANSWER_S)

    def _listen(self) -> None:
        for news in _messages(self._socket):
            if news == _BYE:
                self._left = True
                self._heard_bye.set()
            elif not self._left:
                if self._host == 0:
                    time.sleep(_FIRST_HOST_DELAY_S)
                if news["code"] == errors.HUNG:
                    faulthandler.dump_traceback(sys.stderr, all_threads=True)
                exit_process(news["code"], news["line"])
        if not self._left:
            exit_process(errors.LOST_PEER, _lost(0))


class _Relay:
    """The first host's end of all connections. It forwards the report of one host to all hosts."""

    def __init__(self, token: str):
        self._token, self._lock = token, threading.Lock()
        self._sockets: list[socket.socket] = []
        self._closed, self._server = threading.Event(), socket.create_server(("", 0))
        self._server.settimeout(_ACCEPT_POLL_S)
        self.port = self._server.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, name="peer-relay", daemon=True)]

    def __enter__(self) -> "_Relay":
        self._threads[0].start()
        return self

    def __exit__(self, *exception) -> None:
        self._closed.set()
        self._threads[0].join()
        self._server.close()
        with self._lock:
            for each in self._sockets:
                with contextlib.suppress(OSError):  # that host is gone
                    each.shutdown(socket.SHUT_WR)  # that host then closes its side, which ends our thread
        deadline = time.monotonic() + _ANSWER_S
        for thread in self._threads[1:]:
            thread.join(max(deadline - time.monotonic(), 0))

    def _accept(self) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = self._server.accept()
                serve = threading.Thread(
                    target=self._serve, args=(_with_keepalive(connection),), name="peer-relay", daemon=True
                )
                self._threads.append(serve)
                serve.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            messages = _messages(connection)
            token, host = next(messages, ("", -1))
            if token != self._token:
                return
            with self._lock:
                self._sockets.append(connection)
            self._relay(host, messages)
            with self._lock:
                self._sockets.remove(connection)

    def _relay(self, host: int, messages: Iterator) -> None:
        """Reads the reports of a host until its connection ends."""
        for message in messages:
            if message != _BYE or host == 0:
                self._send_all(message)
            if message == _BYE:
                return
        self._send_all({"code": errors.LOST_PEER, "line": _lost(host)})

    def _send_all(self, message) -> None:
        with self._lock:
            for each in self._sockets:
                _send(each, message)


def _send(connection: socket.socket, message) -> None:
    with contextlib.suppress(OSError):  # the other end is gone; its own thread handles that
        connection.sendall(json.dumps(message).encode() + b"\n")


def _messages(connection: socket.socket) -> Iterator:
    """Yields the received JSON lines until the connection ends or breaks."""
    try:
        with connection.makefile("r") as lines:
            yield from map(json.loads, lines)
    except (OSError, json.JSONDecodeError):
        return


def _with_keepalive(connection: socket.socket) -> socket.socket:
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):  # macOS does not have all of them
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return connection


def _lost(host: int) -> str:
    return (
        f"error: host {host} is gone and reported no error (killed, or its machine is down): start all hosts again; "
        "they continue from the newest checkpoint"
    )
