"""Who holds a workdir: a job elsewhere is believed while it shows signs of life, and no longer."""

import errno
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from etils import epath

from cover_jax import errors
from cover_jax.fault_tolerance import workdir_lease

ELSEWHERE = {"run_id": "abc", "host": "elsewhere", "boot": "b", "pid": 7, "started": "2026-01-01T00:00:00+00:00"}


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    monkeypatch.setattr(workdir_lease, "STALE_S", 3.0)
    monkeypatch.setattr(workdir_lease, "BEAT_S", 0.2)


def written(workdir, **state) -> dict:
    (workdir / "lease.json").write_text(json.dumps(ELSEWHERE | state))
    return ELSEWHERE | state


def held(workdir) -> dict:
    return workdir_lease._read(epath.Path(workdir / "lease.json"))  # not in the midst of a beat


def test_it_is_held_with_a_beat_and_released(tmp_path):
    with workdir_lease.hold(str(tmp_path / "new")):
        deadline = time.monotonic() + 30
        while not (found := held(tmp_path / "new"))["beat"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert found["pid"] == os.getpid() and "released" not in found
        with (
            pytest.raises(workdir_lease.WorkdirInUseError, match=rf"in use by process {os.getpid()} on .*, run "),
            workdir_lease.hold(str(tmp_path / "new")),
        ):
            pass
    assert held(tmp_path / "new")["released"]
    with workdir_lease.hold(str(tmp_path / "new")):
        pass


def test_a_beat_that_is_under_way_does_not_come_after_the_release(tmp_path, monkeypatch):
    """Nor does it outlive the lease: TensorFlow aborts a process that ends while it waits for a bucket."""
    write, beats = workdir_lease._Lease._write, threading.Event()

    def slow_beat(self, **state):
        if state.get("beat"):
            beats.set()
            time.sleep(1)
        write(self, **state)

    monkeypatch.setattr(workdir_lease._Lease, "_write", slow_beat)
    with workdir_lease.hold(str(tmp_path)):
        assert beats.wait(timeout=10)
    assert "lease" not in [thread.name for thread in threading.enumerate()]
    assert held(tmp_path)["released"]


def test_a_job_elsewhere_that_shows_no_sign_of_life_is_over(tmp_path):
    written(tmp_path, beat=5)
    start = time.monotonic()
    with workdir_lease.hold(str(tmp_path)):
        assert held(tmp_path)["pid"] == os.getpid()
    assert time.monotonic() - start >= workdir_lease.STALE_S


def test_a_job_elsewhere_that_beats_is_believed(tmp_path, monkeypatch):
    written(tmp_path, beat=5)
    read = workdir_lease._read

    def read_and_beat(path):
        found = read(path)
        written(tmp_path, beat=6)
        return found

    monkeypatch.setattr(workdir_lease, "_read", read_and_beat)
    with (
        pytest.raises(workdir_lease.WorkdirInUseError, match="process 7 on elsewhere, started 2026-01-01"),
        workdir_lease.hold(str(tmp_path)),
    ):
        pass
    assert held(tmp_path) == ELSEWHERE | {"beat": 6}


@pytest.mark.parametrize(
    "state", [{"released": True}, {"host": workdir_lease.socket.gethostname(), "boot": workdir_lease._boot()}]
)
def test_nobody_waits_for_a_job_that_has_ended(tmp_path, state, capsys):
    written(tmp_path, **state)
    with workdir_lease.hold(str(tmp_path)):
        pass
    assert "waiting" not in capsys.readouterr().out


HOLD = """
import sys, time
from cover_jax.fault_tolerance import workdir_lease
workdir_lease.BEAT_S = 0.2
with workdir_lease.hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_job_that_was_silent_for_too_long_leaves_the_workdir_to_who_took_over(tmp_path):
    command = [sys.executable, "-c", HOLD, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            written(tmp_path, beat=1)  # again and again, as who lives does: a beat of the other may be on its way
            time.sleep(0.1)
        assert process.wait(timeout=1) == errors.IN_USE
        assert "in use by process 7 on elsewhere" in process.stderr.read().splitlines()[-1]
    assert held(tmp_path) == ELSEWHERE | {"beat": 1}


def test_where_the_file_system_knows_no_locks_a_living_process_of_this_machine_is_believed(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError("no locks here")

    monkeypatch.setattr(workdir_lease.fcntl, "flock", flock)
    with (
        workdir_lease.hold(str(tmp_path)),
        pytest.raises(workdir_lease.WorkdirInUseError),
        workdir_lease.hold(str(tmp_path)),
    ):
        pass


@pytest.mark.parametrize(
    ("number", "error", "code"),
    [
        (errno.ENOSPC, workdir_lease.WorkdirNotWritableError, errors.NOT_SAVED),
        (errno.EROFS, workdir_lease.WorkdirNotWritableError, errors.NOT_SAVED),
        (errno.EACCES, errors.ConfigError, errors.CONFIG),
    ],
    ids=["full", "read-only", "permission"],
)
def test_a_workdir_that_cannot_be_written_is_named(tmp_path, monkeypatch, number, error, code):
    def write(self, **state):
        raise OSError(number, os.strerror(number), str(self._path))

    monkeypatch.setattr(workdir_lease._Lease, "_write", write)
    with (
        pytest.raises(error, match=f"--workdir={tmp_path}: .*{os.strerror(number)}") as raised,
        workdir_lease.hold(str(tmp_path)),
    ):
        pass
    assert raised.value.exit_code == code


@pytest.mark.parametrize("content", ["{}", "[]", "nonsense", json.dumps(ELSEWHERE | {"pid": "7"})])
def test_a_damaged_lease_is_written_anew(tmp_path, content):
    (tmp_path / "lease.json").write_text(content)
    with workdir_lease.hold(str(tmp_path)):
        assert held(tmp_path)["pid"] == os.getpid()


def as_host(index: int, monkeypatch, of_host0: list | None = None) -> None:
    """This process is a host of two; the other one sees and knows nothing else."""
    monkeypatch.setattr(workdir_lease.jax_private, "this_process", lambda: (index, 2))
    answers = iter([json.dumps(of_host0)] if of_host0 else [])
    monkeypatch.setattr(workdir_lease.hosts, "exchange", lambda mine: [next(answers, mine), "true"])


@pytest.mark.parametrize("needs_writing", [False, True])
def test_only_a_run_that_writes_creates_the_workdir(tmp_path, monkeypatch, needs_writing):
    """An evaluation of a mistyped workdir leaves nothing behind."""
    as_host(0, monkeypatch)
    workdir_lease.check_is_shared(str(tmp_path / "typo" / "run"), needs_writing=needs_writing)
    assert (tmp_path / "typo" / "run").exists() == (tmp_path / "typo").exists() == needs_writing


def test_a_network_file_system_may_show_the_folder_late(tmp_path, monkeypatch, capsys):
    """NFS asks its server again after at most 60 s. On a disk of this machine, a mistake is told sooner."""
    clock = [0.0]
    monkeypatch.setattr(workdir_lease.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(workdir_lease.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + 5.0))
    for at_once, waited_s in ((True, 10.0), (False, 60.0)):
        clock[0] = 0.0
        monkeypatch.setattr(workdir_lease, "_shows_at_once", lambda path, at_once=at_once: at_once)
        assert not workdir_lease._sees(epath.Path(tmp_path / "none"), "token")
        assert clock[0] > waited_s
        assert ("waiting up to 75 s" in capsys.readouterr().out) == (not at_once)


def test_file_systems_of_this_machine_and_buckets_show_a_folder_at_once(monkeypatch):
    mounts = "overlay / overlay rw 0 0\nserver:/x /data nfs4 rw 0 0\ntmpfs /data/tmp tmpfs rw 0 0\n"
    monkeypatch.setattr(workdir_lease.pathlib.Path, "read_text", lambda path: mounts)
    monkeypatch.setattr(workdir_lease.pathlib.Path, "exists", lambda path: True)
    shown = {path: workdir_lease._shows_at_once(epath.Path(path)) for path in
             ("/run/x", "/data/x", "/data/tmp/run/x", "gs://bucket/run/x")}  # fmt: skip
    assert shown == {"/run/x": True, "/data/x": False, "/data/tmp/run/x": True, "gs://bucket/run/x": True}
