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
from collections.abc import Callable, Iterator
from typing import IO

import jax
from etils import epath

from cover_jax import errors
from cover_jax.fault_tolerance import process, tolerant_io
from cover_jax.parallel import hosts, jax_private
from data_pipelines import command_line, files

_FORM = {"run_id": str, "host": str, "boot": str, "pid": int, "started": str}
BEAT_S = 10.0
STALE_S = 60.0
_APPEARS_S = 10.0  # until a file of another host is seen, on a local disk or in a bucket
_APPEARS_LATE_S = 75.0  # on other file systems: NFS asks its server for a folder at least every 60 s (acdirmax)
_LOCAL_FILE_SYSTEMS = frozenset({"btrfs", "ext2", "ext3", "ext4", "overlay", "ramfs", "tmpfs", "xfs", "zfs"})


class WorkdirInUseError(RuntimeError):
    """Another job writes into the workdir. The message names it."""

    exit_code = errors.IN_USE


class WorkdirNotWritableError(RuntimeError):
    """The workdir cannot be written at the start: its storage is full, read-only or broken. The message names it."""

    exit_code = errors.NOT_SAVED


@contextlib.contextmanager
def hold(workdir: str, when_held: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds the workdir inside its `with` block. The first host does so for all hosts.

    Args:
        workdir: a folder.
        when_held: called on each host as soon as it knows that the workdir is held: on the first host before the others
            are told, which may end it.

    Raises:
        WorkdirInUseError, WorkdirNotWritableError, ConfigError: on all hosts.
    """
    with contextlib.ExitStack() as stack:
        kind, problem = "", ""
        if jax.process_index() == 0:
            try:
                stack.enter_context(_Lease(epath.Path(workdir)))
                when_held()
            except WorkdirInUseError as error:
                kind, problem = "in use", str(error)
            except Exception as error:
                kind, problem = _why_not_writable(workdir, error)
        kind, problem = json.loads(hosts.exchange(json.dumps([kind, problem]))[0])
        if problem:
            raise _KINDS[kind](problem)
        if jax.process_index():
            when_held()
        yield


_KINDS = {
    "in use": WorkdirInUseError,
    "not writable": WorkdirNotWritableError,
    "not permitted": errors.ConfigError,
}


def _why_not_writable(workdir: str, error: Exception) -> tuple[str, str]:
    """(one of _KINDS, what to say) for an error of the storage of a workdir; raises any other error again."""
    if not tolerant_io.is_storage_error(error):
        raise error
    reason, where = command_line.one_line(error), f"--workdir={workdir}"
    if isinstance(error, PermissionError | NotADirectoryError | FileExistsError):
        return "not permitted", f"{where}: {reason}; must be a folder that this user can write"
    return (
        "not writable",
        f"{where}: cannot be written at the start: {reason}; make space or repair it",
    )


def check_is_shared(workdir: str, *, needs_writing: bool) -> None:
    """Checks that all hosts see the same folder: the first host writes a file there, and the others read it.

    No other host may ask for the folder before: NFS would remember for a minute that it is not there.

    Args:
        workdir: of this host. Its name may differ between hosts.
        needs_writing: the folder is created if missing, and it is an error if it cannot be written. Otherwise nothing
            is created, and a folder that is missing or cannot be written is not checked.

    Raises:
        ConfigError, WorkdirNotWritableError: on all hosts.
    """
    index, count = jax_private.this_process()
    if count == 1:
        return
    token, folder = uuid.uuid4().hex, epath.Path(workdir)
    kind, problem, written = "", "", False
    if index == 0:
        try:
            if needs_writing:
                folder.mkdir(parents=True, exist_ok=True)
            if written := folder.exists():
                (folder / f".hosts-{token}").write_text(token)
        except Exception as error:
            written = False
            kind, problem = _why_not_writable(workdir, error) if needs_writing else ("", "")
    mine = [token, kind, problem, workdir, written]
    token, kind, problem, theirs, written = json.loads(hosts.exchange(json.dumps(mine))[0])
    seen = not written or _sees(folder / f".hosts-{token}", token)
    found = [host for host, answer in enumerate(hosts.exchange(json.dumps(seen))) if not json.loads(answer)]
    if index == 0 and written:
        with contextlib.suppress(Exception):  # what is left there is small, and disturbs nothing
            (folder / f".hosts-{token}").unlink()
    if found:
        kind = "not permitted"
        problem = (
            f"--workdir={theirs}: host {found[0]} does not see what host 0 wrote there; must be one folder on storage "
            "that all hosts share"
        )
    if problem:
        raise _KINDS[kind](problem)


def _sees(path: epath.Path, token: str) -> bool:
    """Whether a file appears here with this text. Network file systems may show it late."""
    limit_s = _APPEARS_S if _shows_at_once(path) else _APPEARS_LATE_S
    deadline, told_at = time.monotonic() + limit_s, time.monotonic() + _APPEARS_S
    while True:
        with contextlib.suppress(Exception):  # not there yet, or not at all
            if path.read_text() == token:
                return True
        if time.monotonic() > deadline:
            return False
        if time.monotonic() > told_at:
            told_at = deadline
            print(f"waiting up to {limit_s:.0f} s until {path.parent} shows what host 0 wrote there", flush=True)
        time.sleep(0.2)


def _shows_at_once(path: epath.Path) -> bool:
    """Whether a file system keeps no older view of a folder: one of this machine, or a bucket."""
    if files.is_remote(path):
        return True
    mounts = pathlib.Path("/proc/self/mounts")  # Linux; elsewhere it is not known
    lines = mounts.read_text().splitlines() if mounts.exists() else []
    kinds = {line.split()[1]: line.split()[2] for line in lines}
    parents = pathlib.Path(os.path.realpath(path)).parents
    return next((kinds[str(parent)] for parent in parents if str(parent) in kinds), "") in _LOCAL_FILE_SYSTEMS


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
        self._path.write_bytes(files.sealed_json(self._me | state))  # not renamed: the open file has the lock

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
    """The content of the file; None if it does not exist, is incomplete or damaged: then it is written anew."""
    for _ in range(5):
        try:
            content: dict = files.read_json(path, _FORM)
            return content
        except FileNotFoundError:
            return None
        except files.DamagedFileError:
            time.sleep(0.05)  # another process may be writing it
    return None


def _name(holder: dict | None) -> str:
    if holder is None:
        return "another process"
    return f"process {holder['pid']} on {holder['host']}, started {holder['started']}, run {holder['run_id']}"


def _in_use(path: epath.Path, holder: dict | None) -> str:
    return f"{path.parent}: in use by {_name(holder)}; end that job, or use another --workdir"
