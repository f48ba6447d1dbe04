"""How a host ends when another has gone; with real hosts: test_faults.py."""

import itertools
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from cover_jax import errors
from cover_jax.fault_tolerance import peers

ABORT = """
import ctypes, faulthandler, os, sys, threading, time
from cover_jax.fault_tolerance import peers

if "stacks" in sys.argv:
    faulthandler.enable()

def end_later():
    time.sleep(1)
    os._exit(47)

delayed = peers.delayed_aborts()
if "delay" in sys.argv:
    delayed.__enter__()
if "restore" in sys.argv:
    delayed.__exit__(None, None, None)
threading.Thread(target=end_later, daemon=True).start()
ctypes.CDLL(None).abort()  # as a thread of a library, which does not hold the interpreter
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], -signal.SIGABRT),
        (["delay"], 47),
        (["delay", "stacks"], 47),
        (["delay", "restore", "stacks"], -signal.SIGABRT),
    ],
    ids=["none", "delay", "delay-stacks", "restore-stacks"],
)
def test_a_library_s_abort_leaves_time_to_say_why_and_keeps_its_stacks(arguments, code):
    done = subprocess.run([sys.executable, "-c", ABORT, *arguments], capture_output=True, timeout=120, text=True)
    assert done.returncode == code
    assert done.stderr.count("Fatal Python error: Aborted") == ("stacks" in arguments)
    assert ("most recent call first" in done.stderr) == ("stacks" in arguments)


def test_what_nobody_ends_in_time_is_aborted():
    alone = ABORT.replace("time.sleep(1)", "time.sleep(100)")
    done = subprocess.run([sys.executable, "-c", alone, "delay"], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGABRT


@pytest.fixture
def ended(monkeypatch):
    """(exit code, last line) of each host that would have been ended."""
    found = []
    monkeypatch.setattr(peers, "exit_process", lambda *ending: found.append(ending))
    monkeypatch.setattr(peers, "_FIRST_HOST_DELAY_S", 0.0)
    monkeypatch.setattr(peers, "_ANSWER_S", 1.0)
    return found


def connect(num_hosts: int) -> tuple[peers._Relay, list[peers.PeerMonitor]]:
    """Hosts that are in this process."""
    relay = peers._Relay("token").__enter__()
    addresses = [("127.0.0.1", relay.port)] * num_hosts
    monitors = [peers.PeerMonitor(socket.create_connection(at), i, "token") for i, at in enumerate(addresses)]
    deadline = time.monotonic() + 10
    while len(relay._sockets) < num_hosts:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return relay, monitors


def leave(monitor: peers.PeerMonitor, kind: type[Exception] | None = None) -> None:
    monitor.__exit__(kind, kind and kind(), None)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_hosts_leave_in_any_order_without_ending_each_other(ended, order):
    relay, monitors = connect(3)
    for host in order:
        leave(monitors[host])
        if host == 0:
            relay.__exit__(None, None, None)
    assert ended == []
    deadline = time.monotonic() + 10
    while any(thread.name.startswith("peer-") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_host_that_leaves_by_an_exception_ends_the_others(ended, failing):
    relay, monitors = connect(2)
    leave(monitors[failing], OSError)
    deadline = time.monotonic() + 10
    while not ended:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert ended[0] == (errors.LOST_PEER, peers._lost(failing))
    leave(monitors[1 - failing])
    relay.__exit__(None, None, None)


def test_the_cause_of_one_host_is_the_last_line_of_all(ended):
    relay, monitors = connect(2)
    monitors[1].end_all_hosts(45, "diverged")
    assert len(ended) >= 3 and set(ended) == {(45, "error on host 1: diverged")}  # both by the news, and host 1 itself
    for monitor in reversed(monitors):
        leave(monitor)
    relay.__exit__(None, None, None)


def test_who_does_not_know_the_token_is_not_heard(ended):
    relay, monitors = connect(1)
    with socket.create_connection(("127.0.0.1", relay.port)) as stranger:
        stranger.sendall(b'["guess", 1]\n{"code": 1, "line": "end"}\n')
        assert stranger.recv(1) == b""
    leave(monitors[0])
    relay.__exit__(None, None, None)
    assert ended == []
