"""Saves checkpoints during training. A save may fail, for example while a disk is full, but not the last one."""

import contextlib
import functools
import hashlib
import json
import math
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy

from cover_jax import errors
from cover_jax.checkpoint import fingerprint, integrity, layout
from cover_jax.checkpoint.layout import Meta
from cover_jax.parallel import hosts


class NotSavedError(RuntimeError):
    """The last checkpoint of a process could not be written. The message says why."""

    exit_code = errors.NOT_SAVED


class SteppedState(Protocol):
    """A tree of arrays with a `step`, under which it is saved."""

    @property
    def step(self) -> jax.Array:
        """Number of completed training steps, a scalar."""


class Saver:
    """Writes the checkpoints of a run. All hosts call the same methods, except `poll`, on the same steps.

    A save runs in the background. If it fails on any host, the previous checkpoint remains and training continues.

    Args:
        config: of the run.
        workdir: held by this job (fault_tolerance/workdir_lease.py).
    """

    def __init__(self, config: ConfigDict, workdir: str):
        self._pending: int | None = None
        self._problem = ""
        self._open = functools.partial(
            open_manager, workdir, config.keep_checkpoints, config.best_metric, config.timeouts.save_s / 3
        )
        self._manager: ocp.CheckpointManager | None = self._open()
        self._newest: int | None = self._manager.latest_step()

    def reload(self) -> None:
        """Must be called after checkpoints were moved away."""
        if self._manager:
            self._manager.reload()

    def save(self, state: SteppedState, meta: Meta, accuracies: dict[str, float] | None) -> None:
        """Waits for the previous save. Then starts to save a state under its step, unless it is already saved."""
        self.wait()
        step = int(state.step)
        try:
            self._manager = self._manager or self._open()
            if step in self._manager.all_steps():
                return
            self._pending = step
            start_save(self._manager, state, meta, accuracies)
        except fingerprint.ReplicasDifferError:  # what would be saved later is not sound, either
            self._pending = None
            raise
        except Exception as error:
            if jax.process_count() > 1:  # the other hosts are already saving
                raise NotSavedError(_message(step, integrity.describe_error(error))) from error
            self._pending = step
            self._fail(error)

    def poll(self) -> None:
        """Reports if the save in progress has failed on this host. Call it often: it does not wait."""
        if self._pending is None or self._problem or self._manager is None:
            return
        if not self._manager.is_saving_in_progress():
            self._wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        """Waits for the save in progress. After an exception, a run on several hosts does not wait.

        Raises:
            NotSavedError: the save failed, on any host.
        """
        if kind is None:
            if failed := self.wait():
                raise NotSavedError(failed)
            if self._manager:
                self._manager.close()
        elif jax.process_count() == 1:
            self._wait()

    def wait(self) -> str:
        """Waits for the save in progress on all hosts. Returns why it failed, the same text on all hosts."""
        if self._pending is None:
            return ""
        if not self._problem:
            self._wait()
        problems = hosts.exchange(self._problem)
        step, self._pending, self._problem = self._pending, None, ""
        if not any(problems):
            self._newest = step
            return ""
        if self._manager:
            close_failed(self._manager)
            self._manager = None  # the next save opens a new one
        return _message(step, "; ".join(filter(None, problems)))

    def _wait(self) -> None:
        if self._manager is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        where = f"host {jax.process_index()}: " if jax.process_count() > 1 else ""
        self._problem = f"{where}{integrity.describe_error(error)}"
        outlook = f"training continues and retries at the next save; newest checkpoint: {self._newest}"
        print(f"WARNING: {_message(self._pending, self._problem)}; {outlook}", file=sys.stderr, flush=True)


def _message(step: int | None, problem: str) -> str:
    return f"the checkpoint of step {step} could not be saved: {problem}"


MAX_ERRORS_OF_A_SAVE = 20  # a few files, and threads that wait for each other


def open_manager(workdir: str, keep: int, best_metric: str, save_timeout_s: float) -> ocp.CheckpointManager:
    """Opens a run's checkpoints for writing. It keeps the `keep` latest and the `keep` best by `best_metric`.

    It removes incomplete checkpoints of a killed process, so only the job that holds the workdir may call it.

    Args:
        save_timeout_s: a save fails if a host has not finished it after this time.
    """
    _set_aside_unreadable(workdir)
    _count_timeouts_evenly()

    def best_fn(metrics: Mapping[str, float]) -> float:
        # Steps without an evaluation rank below all evaluated steps, and later ones rank higher. So if fewer than
        # `keep` steps were evaluated, the steps that fill up the best are among the latest in any case.
        return metrics.get(best_metric, -math.inf)

    policies = [
        preservation_policy.LatestN(keep),
        preservation_policy.BestN(get_metric_fn=best_fn, n=keep, keep_checkpoints_without_metrics=False),
    ]
    options = ocp.CheckpointManagerOptions(
        best_fn=best_fn,
        preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
        cleanup_tmp_directories=True,
        async_options=ocp.AsyncOptions(timeout_secs=round(save_timeout_s)),
    )
    return _Manager(layout.checkpoints_folder(workdir), options=options)


class _SteadyTime:
    """Stands for the module `time`: its `time()` goes on evenly, whatever is done to the clock of the machine."""

    def __init__(self) -> None:
        self._ahead_s = time.time() - time.monotonic()

    def time(self) -> float:
        """Seconds since 1970, as they were when the process began, and the time since then."""
        return self._ahead_s + time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


# Where orbax compares a timeout with time.time(): a step of the clock would end a save, or make its wait longer.
_WITH_TIMEOUTS = ("futures.future", "futures.signaling_client", "checkpointers.async_checkpointer")


@functools.cache
def _count_timeouts_evenly() -> None:
    steady = _SteadyTime()
    for name in _WITH_TIMEOUTS:
        module = sys.modules.get(f"orbax.checkpoint._src.{name}")  # another version of orbax may have other modules
        if module is not None and getattr(module, "time", None) is time:
            vars(module)["time"] = steady


class _Manager(ocp.CheckpointManager):  # type: ignore[misc]  # orbax has no types
    def reached_preemption(self, step: int) -> bool:
        """Off, because `preemption` does this. Orbax would ask JAX, whose agreement a run does not use."""
        return False


def _set_aside_unreadable(workdir: str) -> None:
    """Sets checkpoints with broken JSON aside: orbax cannot open a folder that contains one."""
    if jax.process_index() == 0:
        for step in layout.saved_steps(workdir):
            path = layout.checkpoints_folder(workdir) / str(step)
            if problems := integrity.read_meta(path)[1]:
                moved = integrity.set_aside(path, workdir)
                hosts.print_on_host0(f"WARNING: {path} is damaged, set aside as {moved}: {problems[0]}")
    hosts.exchange("")


def start_save(
    manager: ocp.CheckpointManager, state: SteppedState, meta: Meta, accuracies: dict[str, float] | None
) -> None:
    """Starts saving the state under its step, and returns.

    Raises:
        The error of the previous save, if that failed.
    """
    accuracies = accuracies or {}  # None: orbax would warn at every save
    sealed = integrity.seal(meta | {"fingerprints": _agreed_fingerprints(state)}, accuracies)
    items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(sealed))
    manager.save(int(state.step), args=items, metrics=accuracies, force=True)


def _agreed_fingerprints(state: SteppedState) -> dict[str, str]:
    """Path of each leaf -> its fingerprint, which is the same on all devices of all hosts.

    Raises:
        ReplicasDifferError: on all hosts, if one holds other values than the first.
    """
    found: dict[str, str] = {}
    problem = ""
    try:
        found = fingerprint.as_json(fingerprint.fingerprint_tree(state))
    except fingerprint.ReplicasDifferError as error:
        problem = str(error)
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    of_hosts = [json.loads(text) for text in hosts.exchange(json.dumps([digest, problem]))]
    for host, (theirs, why) in enumerate(of_hosts):
        if why or theirs != of_hosts[0][0]:
            raise fingerprint.ReplicasDifferError(
                f"step {int(state.step)} is not saved: {why or 'the state differs from that of host 0'} (host {host}); "
                "hosts or devices have computed different numbers. the same command continues from the newest save"
            )
    return found


def close_failed(manager: ocp.CheckpointManager) -> None:
    """Closes the manager of a failed save on all hosts, and removes incomplete files.

    One failure causes several errors. Orbax raises each once: the later ones when the next save begins, on that host
    only, while the other hosts wait for it.
    """
    for _ in range(MAX_ERRORS_OF_A_SAVE):
        with contextlib.suppress(Exception):
            manager.close()
            break
    hosts.exchange("closed")  # no host writes any more
    if jax.process_index() == 0:
        with contextlib.suppress(Exception):  # the storage may not answer; the next job that opens the folder retries
            for path in manager.directory.glob("*.orbax-checkpoint-tmp*"):
                path.rmtree(missing_ok=True)
