"""Only one job at a time writes into a workdir: the job that holds WORKDIR/lease.json.

On one machine, a lock of the operating system decides. It ends with its process, however that process ends. On other
machines and in buckets, a heartbeat in the file shows that its holder is alive: the holder writes a new beat every
BEAT_S, and another job waits STALE_S for a new beat. Clocks are not compared.
"""

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import IO

import jax
from etils import epath

from cover_jax import errors
from cover_jax.fault_tolerance import process, tolerant_io
from cover_jax.parallel import hosts

BEAT_S = 10.0
STALE_S = 60.0


class WorkdirInUseError(RuntimeError):
    """Another job writes into the workdir. The message names it."""

    exit_code = errors.IN_USE


@contextlib.contextmanager
def hold(workdir: str) -> Iterator[None]:
    """Holds the workdir inside its `with` block. The first host does so for all hosts.

    Raises:
        WorkdirInUseError: on all hosts.
    """
    with contextlib.ExitStack() as stack:
        problem = ""
        if jax.process_index() == 0:
            try:
                stack.enter_context(_Lease(epath.Path(workdir)))
            except WorkdirInUseError as error:
                problem = str(error)
        if problem := hosts.exchange(problem)[0]:
            raise WorkdirInUseError(problem)
        yield


class _Lease:
    """The lease file with its lock and its beat."""

    def __init__(self, workdir: epath.Path):
        self._path, self._ended = workdir / "lease.json", threading.Event()
        self._beating = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._lock: IO[str] | None = None
        self._is_locked: bool | None = None
        self._me = {
            "run_id": uuid.uuid4().hex[:12],
            "host": socket.gethostname(),
            "boot": _boot(),
            "pid": os.getpid(),
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }

    def __enter__(self):
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            if "://" not in str(self._path):
                self._lock = stack.enter_context(open(self._path, "a+"))
                self._is_locked = _try_lock(self._lock)
                if self._is_locked is False:
                    raise WorkdirInUseError(_in_use(self._path, _read(self._path)))
            self._wait_for_sign_of_life()
            self._write(beat=0)
            stack.pop_all()  # the lock ends with the open file, so the lease now closes it
        self._beating.start()

    def __exit__(self, *exception):
        self._ended.set()
        # A beat in progress could be written after the release. And TensorFlow's bucket client aborts a process that
        # ends while one of its threads waits for an answer.
        self._beating.join()
        with tolerant_io.tolerate_storage_errors(f"{self._path}: the release"):
            self._write(released=True)
        if self._lock:
            self._lock.close()

    def _wait_for_sign_of_life(self) -> None:
        """Waits until the holder named in the file is gone.

        Raises:
            WorkdirInUseError: the holder is still running.
        """
        holder = _read(self._path)
        if holder is None or holder.get("released") or self._is_dead_here(holder):
            return
        print(f"{self._path}: held by {_name(holder)}; waiting up to {STALE_S:.0f} s for a sign of life", flush=True)
        deadline = time.monotonic() + STALE_S
        while time.monotonic() < deadline:
            time.sleep(1)
            if (found := _read(self._path)) not in (holder, None):
                raise WorkdirInUseError(_in_use(self._path, found))

    def _is_dead_here(self, holder: dict) -> bool:
        """Whether the holder was a process of this machine that has ended."""
        if (holder["host"], holder["boot"]) != (self._me["host"], self._me["boot"]):
            return False
        return bool(self._is_locked) or not _is_alive(holder["pid"])

    def _write(self, **state) -> None:
        self._path.write_text(json.dumps(self._me | state))

    def _beat(self) -> None:
        beat = 0
        while not self._ended.wait(BEAT_S):
            beat += 1
            with contextlib.suppress(Exception):  # storage does not answer: retried at the next beat
                holder = _read(self._path)
                if holder and holder["run_id"] != self._me["run_id"]:  # this job wrote no beat for too long
                    process.end_all_hosts(errors.IN_USE, f"{_in_use(self._path, holder)}; it took over from this one")
                self._write(beat=beat)


def _boot() -> str:
    """An id that differs between machines and between boots of a machine; "" if the system has none."""
    path = pathlib.Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def _try_lock(file) -> bool | None:
    """Locks an open file. False: another process holds the lock. None: no locks here, so only beats decide."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user
        return True
    return True


def _read(path: epath.Path) -> dict | None:
    """The content of the file; None if it does not exist or is incomplete."""
    for _ in range(5):
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except json.JSONDecodeError:
            time.sleep(0.05)  # another process may be writing it
    return None


def _name(holder: dict | None) -> str:
    if holder is None:
        return "another process"
    return f"process {holder['pid']} on {holder['host']}, started {holder['started']}, run {holder['run_id']}"


def _in_use(path: epath.Path, holder: dict | None) -> str:
    return f"{path.parent}: in use by {_name(holder)}; end that job, or use another --workdir"
