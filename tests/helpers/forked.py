"""Processes that begin with everything imported: imports are a third of the CPU time of a tiny run.

A server per test process imports what a run imports, and forks itself for each host. JAX has no devices yet at that
moment, so each host has its own number of devices, XLA flags and compilation cache. What the command does is the same.
"""

import atexit
import gc
import multiprocessing
import os
import pathlib
import signal
import sys

# The variables that a host may have otherwise than the server: nothing has read them before the fork, or `_run` sets
# JAX's config again. TensorFlow reads others while it is imported.
_READ_LATE = {"JAX_COORDINATOR_BIND_ADDRESS", "PYTHONUNBUFFERED", "XLA_FLAGS"}
_OF_JAX_CONFIG = {
    "JAX_COMPILATION_CACHE_DIR": ("jax_compilation_cache_dir", str),
    "JAX_NUM_CPU_DEVICES": ("jax_num_cpu_devices", int),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": ("jax_persistent_cache_min_compile_time_secs", float),
}

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.helpers.host", "cover_jax.training.loop"])


def can_have(env: dict[str, str]) -> bool:
    """Whether a `ForkedHost` can have this environment."""
    differing = {name for name, _ in env.items() ^ os.environ.items()}
    return differing <= _READ_LATE | _OF_JAX_CONFIG.keys()


class ForkedHost:
    """`python -m tests.helpers.host ARGUMENTS`, with what tests use of subprocess.Popen."""

    def __init__(self, arguments: list[str], env: dict[str, str], output: pathlib.Path):
        output.touch()
        self._process = _CONTEXT.Process(target=_run, args=(arguments, env, str(output)))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self) -> None:
        self._process.join()


def _run(arguments: list[str], env: dict[str, str], output: str) -> None:
    """Does in the fork what the interpreter does at its start and at its end."""
    gc.freeze()
    os.dup2(os.open(output, os.O_WRONLY), 1)
    os.dup2(1, 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
    os.environ.clear()
    os.environ.update(env)

    import jax  # here: the tests' own process imports this module, too

    for name, (key, kind) in _OF_JAX_CONFIG.items():
        if name in env:
            jax.config.update(key, kind(env[name]))

    from tests.helpers import host

    try:
        host.run(*arguments)
    finally:
        atexit._run_exitfuncs()
