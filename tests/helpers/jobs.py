"""Tiny jobs of one or more processes of the real command, for tests that disturb them."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from data_pipelines.builders import digits
from data_pipelines.prepare import build
from tests.helpers import forked

TIMEOUT_S = 500  # enough for a busy machine
SHARDED = "--config.mesh.fsdp=2"  # so that each of two hosts writes half of a checkpoint
QUICK_TO_COMPILE = (
    "--xla_backend_optimization_level=0"  # XLA_FLAGS: fast compilation, because programs run only for seconds
)


def start_host(arguments: list[str], env: dict[str, str], output: pathlib.Path):
    """Starts `python -m tests.helpers.host ARGUMENTS`, as a fork if its environment allows that."""
    if forked.can_have(env):
        return forked.ForkedHost(arguments, env, output)
    command = [sys.executable, "-m", "tests.helpers.host", *arguments]
    with output.open("w") as file:
        return subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT)


class Job:
    """Running processes of `python -m tests.helpers.host`, each with its output in a file."""

    def __init__(self, commands: list[list[str]], envs: list[dict], folder: pathlib.Path):
        """Starts a process for each command (orders and flags), in the environment of the same place."""
        self.outputs = [folder / f"printed{host}" for host in range(len(commands))]
        self.started = time.monotonic()
        self.processes = [
            start_host(arguments, env, output)
            for arguments, env, output in zip(commands, envs, self.outputs, strict=True)
        ]

    def printed(self, host: int = 0) -> str:
        return self.outputs[host].read_text()

    def all_printed(self) -> str:
        return "\n".join(f"[{host}] {self.printed(host)}" for host in range(len(self.outputs)))

    def last_line(self, host: int = 0) -> str:
        return self.printed(host).rstrip().splitlines()[-1]

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits until `condition` holds; all processes must still be running."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            alive = [
                process.poll() is None for process in self.processes
            ]  # checked first, because a process may end when the condition becomes true
            if condition():
                return
            assert all(alive) and time.monotonic() < deadline, self.all_printed()
            time.sleep(0.02)

    def until_printed(self, text: str, host: int = 0) -> None:
        self.until(lambda: text in self.printed(host))

    def codes(self, hosts: list[int] | None = None, within_s: float = TIMEOUT_S) -> list[int]:
        """Waits for the processes to end and returns their exit codes."""
        hosts = range(len(self.processes)) if hosts is None else hosts
        deadline = time.monotonic() + within_s
        while any(self.processes[host].poll() is None for host in hosts):
            assert time.monotonic() < deadline, f"still running after {within_s} s\n{self.all_printed()}"
            time.sleep(0.02)
        return [self.processes[host].returncode for host in hosts]

    def kill(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()


class Jobs:
    """Starts jobs that share their data and their compiled programs.

    The programs are not those of the session: JAX writes them in place, and a killed process leaves half of one.

    Args:
        folder: for the data, the programs, and what the processes print.
        datasets: of `digits`.
    """

    def __init__(self, folder: pathlib.Path, datasets: tuple[str, ...] = ("images",)):
        self._folder, self._count, self._datasets = folder, 0, datasets
        self.data_dir = folder / "data"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(digits, "CLIPS", dict.fromkeys(datasets, {"train": 96, "validation": 16}))
            for name in datasets:
                build.prepare_if_self_contained(f"digits/{name}", str(self.data_dir))

    @contextlib.contextmanager
    def start(
        self, workdir, *flags: str, hosts: int = 1, absent=(), orders=None, env=(), flags_of=None, env_of=None
    ) -> Iterator[Job]:
        """Starts processes that train. Processes that still run at the end of the context are killed.

        Args:
            absent: hosts that are not started.
            orders: host -> orders for tests/helpers/host.py.
            env: additional environment variables.
            flags_of, env_of: host -> flags and environment variables that only this host has.
        """
        self._count += 1
        folder = self._folder / f"job{self._count}"
        folder.mkdir()
        reserved, address = reserve_address()
        environment = os.environ | {
            "JAX_NUM_CPU_DEVICES": str(2 // hosts), "JAX_COORDINATOR_BIND_ADDRESS": address, "PYTHONUNBUFFERED": "1",
            "JAX_COMPILATION_CACHE_DIR": str(self._folder / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "XLA_FLAGS": QUICK_TO_COMPILE, **dict(env),
        }  # fmt: skip
        commands, envs = [], []
        for host in sorted(set(range(hosts)) - set(absent)):
            envs.append(environment | (env_of or {}).get(host, {}))
            together = [f"--coordinator={address}", f"--num_processes={hosts}", f"--process_id={host}"]
            commands.append([
                json.dumps((orders or {}).get(host, {})),
                f"--config=tests/helpers/tiny_config.py:{','.join(self._datasets)}", f"--workdir={workdir}",
                f"--config.data_dir={self.data_dir}",
                *flags, *(together if hosts > 1 else []), *(flags_of or {}).get(host, []),
            ])  # fmt: skip
        job = Job(commands, envs, folder)
        try:
            yield job
        finally:
            job.kill()
            reserved.close()


def reserve_address() -> tuple[socket.socket, str]:
    """A HOST:PORT for a coordinator on this machine. It stays reserved while the socket is open."""
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as in gRPC servers, so that they can bind it, too
    reserved.bind(("127.0.0.1", 0))
    return reserved, f"127.0.0.1:{reserved.getsockname()[1]}"


def has_stacks(printed: str) -> bool:
    """Whether the output has stack traces of the training loop."""
    return "most recent call first" in printed and "loop.py" in printed


def completed(printed: str) -> int:
    """The last step that the output reports as done."""
    return max((int(step) for step in re.findall(r"^step (\d+)/", printed, re.MULTILINE)), default=0)


def steps_done(job: Job) -> int:
    """The number of steps that a job has done."""
    return len(re.findall(r"^step \d+/", job.printed(), re.MULTILINE))


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, size: str) -> Iterator[pathlib.Path]:
    """Mounts a file system of this size, such as "40m", at `folder`.

    Raises:
        PermissionError: mounting is not permitted; it needs root.
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        raise PermissionError(f"cannot mount a small file system: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: pathlib.Path) -> pathlib.Path:
    """Fills the file system of `folder` completely and returns the file that takes the space."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            return path


def saved_steps(workdir: pathlib.Path) -> list[int]:
    """Steps with a complete checkpoint."""
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []


def fingerprints(workdir: pathlib.Path, step: int) -> dict[str, str]:
    """Fingerprint of every leaf of the state."""
    return json.loads((workdir / "checkpoints" / str(step) / "meta" / "metadata").read_text())["fingerprints"]
