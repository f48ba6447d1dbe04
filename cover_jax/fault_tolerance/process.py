"""Process-wide settings of a run: `guarded_process` changes them and restores them at its end.

| what | why |
| --- | --- |
| environment of TensorFlow and libtpu | quiet imports, more retries of storage (`data_pipelines.environment`) |
| the umask | other users cannot write into the workdir, whatever it is before |
| standard output and error | a full disk with the log file must not end the run (`tolerant_io`) |
| faulthandler, absl's log handler and level, hooks for unhandled errors of asyncio | the cause stays readable |
| SIGINT, and a thread | training saves the step; the second one ends all hosts at once, see `_interrupts` |
| SIGTERM; SIGHUP, if not ignored (`nohup`) | training saves the step; a rehearsal cleans up and ends |
| a thread | what one host is told counts for all (`preemption`) |
| the watchdog: a thread, faulthandler's timer | ends a process that hangs (`watchdog`) |
| JAX's distributed runtime | several hosts (`parallel.hosts`) |
| the peer monitor: threads, connections, C's handler of SIGABRT | ends all hosts when one ends (`peers`) |

Importing this package changes nothing. In a process that is not guarded, for example in a notebook or a test, the
functions of this module watch no phase and end only this process.
"""

import contextlib
import faulthandler
import logging
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax
from absl import logging as absl_logging
from ml_collections import ConfigDict

from cover_jax import errors
from cover_jax.fault_tolerance import tolerant_io
from cover_jax.fault_tolerance.exit_process import exit_process
from cover_jax.fault_tolerance.peers import PeerMonitor, connected_peers
from cover_jax.fault_tolerance.preemption import PreemptionNotice
from cover_jax.fault_tolerance.watchdog import Watchdog
from cover_jax.parallel import hosts, roll_call
from data_pipelines import environment

# JAX's service counts heartbeats by the wall clock of host 0: once it is set forward by more than this limit, or
# back to before the last heartbeat, JAX aborts all. Heartbeats come twice per limit. So they are made rare: the peer
# monitor notices lost hosts, and the watchdog those that hang.
_NO_HEARTBEAT_S = 7 * 24 * 3600


class TerminatedError(BaseException):
    """SIGTERM or Ctrl-C, raised in the main thread of a process that must clean up before it ends.

    No handler of usual exceptions catches it.
    """

    def __init__(self, number: int):
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.exit_code = 128 + number  # as shells have it


class ProcessGuard:
    """What `guarded_process` yields. It starts the watchdog and connects the hosts once the config is known."""

    def __init__(self, stack: contextlib.ExitStack, *, preemptible: bool):
        self._stack, self.preemptible = stack, preemptible
        self.preemption = PreemptionNotice()
        self.watchdog: Watchdog | None = None
        self.peers: PeerMonitor | None = None

    def start_watchdog(self, timeouts: ConfigDict) -> None:
        """From now on, a phase that takes longer than config.timeouts ends all hosts. The first phase is "connect"."""
        self.watchdog = self._stack.enter_context(Watchdog(timeouts, end_all_hosts))

    def connect_hosts(self, coordinator: hosts.Coordinator | None, timeout_s: int) -> None:
        """Starts JAX's distributed runtime and the peer monitor, see `roll_call.meet` and `hosts.connect`."""
        self._stack.enter_context(self._connected(coordinator, timeout_s))

    @contextlib.contextmanager
    def _connected(self, coordinator: hosts.Coordinator | None, timeout_s: int) -> Iterator[None]:
        if coordinator is not None:
            roll_call.meet(coordinator)
        hosts.connect(coordinator, timeout_s=timeout_s, heartbeat_timeout_s=_NO_HEARTBEAT_S)
        with connected_peers() as self.peers:
            with self.preemption.shared() if self.preemptible else contextlib.nullcontext():
                yield
            # Waits for all hosts. The peer monitor ends after it, so a host lost in the meantime still ends all hosts.
            jax.distributed.shutdown()


_UNGUARDED = ProcessGuard(contextlib.ExitStack(), preemptible=False)
_guard = _UNGUARDED


@contextlib.contextmanager
def guarded_process(*, preemptible: bool, quiet: bool, cleans_up: bool = False) -> Iterator[ProcessGuard]:
    """Guards this process inside its `with` block. Must be entered in the main thread, and not twice at once.

    Args:
        preemptible: SIGTERM, SIGHUP and the first Ctrl-C do not end this process; `preemption_is_reached` reports them.
        quiet: libraries log warnings and errors only.
        cleans_up: SIGTERM, SIGHUP and Ctrl-C raise a TerminatedError in the main thread.
    """
    global _guard
    if _guard is not _UNGUARDED:
        raise RuntimeError("this process is guarded already")
    with contextlib.ExitStack() as stack:
        guard = ProcessGuard(stack, preemptible=preemptible)
        stack.enter_context(environment.tensorflow_defaults())
        stack.enter_context(_files_that_others_cannot_write())
        stack.enter_context(tolerant_io.tolerate_output_errors())
        stack.enter_context(_stacks_of_fatal_errors())
        stack.enter_context(_signal_handler(signal.SIGINT, _terminate) if cleans_up else _interrupts(guard))
        stack.enter_context(_logging(quiet))
        if quiet:
            stack.enter_context(tolerant_io.hide_orphaned_errors())
        if preemptible or cleans_up:
            handler = guard.preemption.receive if preemptible else _terminate
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` ignores SIGHUP: the run goes on
                    stack.enter_context(_signal_handler(number, handler))
        _guard = guard
        stack.callback(_unguard)
        yield guard


def _unguard() -> None:
    global _guard
    _guard = _UNGUARDED


def enter_phase(name: str, detail: str = "") -> None:
    """Starts a phase of the run, see `Watchdog.enter_phase`. Does nothing if no watchdog was started."""
    if _guard.watchdog:
        _guard.watchdog.enter_phase(name, detail)


def preemption_is_reached() -> bool:
    """Whether to save this step and leave, see `PreemptionNotice.is_reached`."""
    return _guard.preemption.is_reached()


def is_interrupted() -> bool:
    """Whether it was Ctrl-C that was reached, see `PreemptionNotice.is_interrupt`."""
    return _guard.preemption.is_interrupt()


def end_all_hosts(code: int, cause: str) -> NoReturn:
    """Ends this process and all other hosts with `code`. `cause` is on the last line. Works in any thread."""
    if _guard.peers:
        _guard.peers.end_all_hosts(code, cause)
    exit_process(code, f"error: {cause}")


def exit_command(code: int) -> NoReturn:
    """Ends a command after its guard has ended. Later errors do not change its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # The interpreter flushes both at its end. If that fails, its exit code would be 120.
    sys.stdout, sys.stderr = tolerant_io.TolerantStream(sys.stdout), tolerant_io.TolerantStream(sys.stderr)
    sys.exit(code)


@contextlib.contextmanager
def _interrupts(guard: ProcessGuard) -> Iterator[None]:
    """Handles Ctrl-C: training saves the step and ends; the second one, or one outside of training, ends at once.

    The thread learns of the signal also while the main thread is inside of C++, as in a long compilation. A
    KeyboardInterrupt inside a callback would be lost, and the other hosts would wait.
    """
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    thread = threading.Thread(target=_listen_for_interrupts, args=(guard, reading), name="interrupt", daemon=True)
    with reading, writing, _signal_handler(signal.SIGINT, lambda *_: None):
        before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            writing.shutdown(socket.SHUT_WR)
            thread.join()


def _listen_for_interrupts(guard: ProcessGuard, reading: socket.socket) -> None:
    while number := reading.recv(1):
        if number[0] != signal.SIGINT:
            if guard.preemptible and number[0] in (signal.SIGTERM, signal.SIGHUP):
                guard.preemption.receive(number[0], None)  # its handler may have to wait for the main thread
            continue
        if guard.preemptible and guard.preemption.interrupt():
            print("Ctrl-C: the run ends when the step is saved; a second Ctrl-C ends it at once", flush=True)
        else:
            end_all_hosts(errors.INTERRUPTED, "interrupted; the same command continues from the newest checkpoint")


def _terminate(number: int, _: object) -> NoReturn:
    for again in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a second signal would interrupt the cleaning up
        signal.signal(again, signal.SIG_IGN)
    raise TerminatedError(number)


@contextlib.contextmanager
def _signal_handler(number: signal.Signals, handler: Callable) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL if before is None else before)  # None: a C handler, which is lost


@contextlib.contextmanager
def _files_that_others_cannot_write() -> Iterator[None]:
    """The user's umask, but some systems and containers have 0, and TensorFlow and orbax write by it."""
    before = os.umask(stat.S_IWOTH)
    os.umask(before | stat.S_IWOTH)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def _stacks_of_fatal_errors() -> Iterator[None]:
    """Prints Python's stacks of all threads if a signal such as SIGSEGV ends the process."""
    if faulthandler.is_enabled():
        yield
        return
    faulthandler.enable()
    try:
        yield
    finally:
        faulthandler.disable()


@contextlib.contextmanager
def _logging(quiet: bool) -> Iterator[None]:
    """Installs absl's log handler, as `absl.app` does. The logs of libraries would hide the run's own lines."""
    handlers, verbosity = list(logging.root.handlers), absl_logging.get_verbosity()
    absl_logging.use_absl_handler()
    if quiet:
        absl_logging.set_verbosity(absl_logging.WARNING)
    try:
        yield
    finally:
        logging.root.handlers[:] = handlers
        absl_logging.set_verbosity(verbosity)
