"""How hosts learn at once that one of them has ended, and why: each has a connection to the first, for the whole run.

A host that fails says so; one that is killed cannot, but its connection breaks. Either ends all hosts, within a second,
with the cause on the last line. JAX alone would notice after its heartbeat's timeout, and not say why.
"""

import contextlib
import ctypes
import faulthandler
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time

import jax

# The address of the first host has no public name.
from jax._src import distributed

from cover_jax import errors
from cover_jax.parallel import hosts

_CONNECT_TIMEOUT_S = 60
_LAST_WORD_S = 5  # for the news to come back from the first host before this one ends by itself
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # a machine that is gone is noticed in 25 s
_BYE = "bye"

_connection = None


def start() -> None:
    """Connects this host; after jax.distributed.initialize, by all hosts."""
    global _connection
    host = jax.process_index()
    if host != 0:
        _delay_aborts()
    token, port = secrets.token_hex(16), 0
    if host == 0:
        port = _Switchboard(token).port
    port, token = json.loads(hosts.exchange(json.dumps([port, token]))[0])
    address = distributed.global_state.coordinator_address.rsplit(":", 1)[0].strip("[]")
    _connection = _Connection(socket.create_connection((address, port), _CONNECT_TIMEOUT_S), host, token)
    hosts.exchange("connected")  # none may fail before the first host knows all


def _delay_aborts() -> None:
    """With the first host goes JAX's service, at which JAX aborts the others: the lifeline must have time to say why.

    abort() then calls sleep(SIGABRT), of 6 s, and ends the process after it. It is C's, as a handler in Python would
    wait for the interpreter. An abort of any other reason comes 6 s later, without faulthandler's stacks.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))


def end(code: int, cause: str) -> None:
    """Ends this process with `code`, and all other hosts with it; does not return.

    Where another host ended before, that is the cause.
    """
    cause = f"error: {cause}" if _connection is None else f"error on host {jax.process_index()}: {cause}"
    if _connection is not None:
        _connection.tell({"code": code, "line": cause})
        time.sleep(_LAST_WORD_S)  # what comes back ends this process
    _exit(code, cause)


def leave() -> None:
    """This host ends in peace, and so may the others."""
    if _connection is not None:
        _connection.leave()


def _exit(code: int, line: str) -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        with open(os.dup(2), "w") as stderr:
            for output in (1, 2):  # another thread may be about to print a traceback: the cause is the last line
                os.dup2(os.open(os.devnull, os.O_WRONLY), output)
            print(line, file=stderr, flush=True)
    finally:  # also where the log's disk is full
        os._exit(code)


class _Connection:
    """This host's end."""

    def __init__(self, connected: socket.socket, host: int, token: str):
        self._socket, self._host, self._left = _kept_alive(connected), host, False
        self._heard_bye = threading.Event()
        self._send([token, host])
        threading.Thread(target=self._listen, name="lifeline", daemon=True).start()

    def tell(self, news: dict) -> None:
        with contextlib.suppress(OSError):  # the first host is gone, which is noticed elsewhere
            self._send(news)

    def leave(self) -> None:
        self._left = True
        self.tell(_BYE)
        if self._host == 0:  # its end breaks the others' connections: not before they know
            self._heard_bye.wait(_LAST_WORD_S)

    def _send(self, message) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _listen(self) -> None:
        for news in _messages(self._socket):
            if news == _BYE:
                self._left = True
                self._heard_bye.set()
            elif not self._left:
                if self._host == 0:
                    time.sleep(1)  # with the first host goes JAX's service, which would abort the others
                if news["code"] == errors.HUNG:
                    faulthandler.dump_traceback(sys.stderr, all_threads=True)
                _exit(news["code"], news["line"])
        if not self._left:
            _exit(errors.LOST_PEER, _lost(0))


class _Switchboard:
    """The first host's end of all connections."""

    def __init__(self, token: str):
        self._token, self._sockets, self._lock = token, [], threading.Lock()
        self._server = socket.create_server(("", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, name="switchboard", daemon=True).start()

    def _accept(self) -> None:
        while True:
            connected, _ = self._server.accept()
            threading.Thread(target=self._serve, args=(_kept_alive(connected),), daemon=True).start()

    def _serve(self, connected: socket.socket) -> None:
        messages = _messages(connected)
        token, host = next(messages, ("", -1))
        if token != self._token:
            connected.close()
            return
        with self._lock:
            self._sockets.append(connected)
        for message in messages:
            if message == _BYE and host == 0:
                self._tell_all(_BYE)
            if message == _BYE:
                return
            self._tell_all(message)
        self._tell_all({"code": errors.LOST_PEER, "line": _lost(host)})

    def _tell_all(self, message) -> None:
        with self._lock:
            for each in self._sockets:
                try:
                    each.sendall(json.dumps(message).encode() + b"\n")
                except OSError:
                    continue


def _messages(connected: socket.socket):
    """The JSON lines that come, until the connection ends or breaks."""
    try:
        with connected.makefile("r") as lines:
            yield from map(json.loads, lines)
    except (OSError, json.JSONDecodeError):
        return


def _kept_alive(connected: socket.socket) -> socket.socket:
    connected.settimeout(None)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):  # macOS has not all
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return connected


def _lost(host: int) -> str:
    return (
        f"error: host {host} has gone without a word (killed, or its machine is down): start all hosts again, they go "
        "on from the newest checkpoint"
    )
