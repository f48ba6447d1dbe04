"""Saving while training goes on, also past a disk that is full for a while. Only the last save must not fail."""

import functools
import sys

import jax
from ml_collections import ConfigDict

from cover_jax import checkpoint, exit_codes, hosts, integrity


class NotSavedError(RuntimeError):
    """The last checkpoint of a process could not be written. The message says why."""

    exit_code = exit_codes.NOT_SAVED


class Saver:
    """The checkpoints of a run, to be written; all hosts call the same methods, but for `poll`, on the same steps.

    A save goes on in the background. Where one fails on any host, the one before is still there, and training goes on.

    Args:
        config: of the run.
        workdir: held by this job (lease.py).
    """

    def __init__(self, config: ConfigDict, workdir: str):
        self._pending, self._problem = None, ""
        self._open = functools.partial(
            checkpoint.open_manager, workdir, config.keep_checkpoints, config.best_metric, config.timeouts.save_s / 3
        )
        self._manager = self._open()
        self._newest = self._manager.latest_step()

    def reload(self) -> None:
        """To be called where checkpoints were moved away."""
        if self._manager:
            self._manager.reload()

    def save(self, state, meta: dict, accuracies: dict[str, float] | None) -> None:
        """Starts to save a state under its step, after the save before is done; one that is already saved is left."""
        self.wait()
        step = int(state.step)
        try:
            self._manager = self._manager or self._open()
            if step in self._manager.all_steps():
                return
            self._pending = step
            checkpoint.save(self._manager, state, meta, accuracies)
        except Exception as error:
            if jax.process_count() > 1:  # the others are in the midst of it
                raise NotSavedError(_message(step, integrity.one_line(error))) from error
            self._pending = step
            self._fail(error)

    def poll(self) -> None:
        """Says whether the save under way has failed on this host; to be called often, waits for nothing."""
        if self._pending is not None and not self._problem and not self._manager.is_saving_in_progress():
            self._wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_) -> None:
        """Waits for the save under way; but for other hosts only where none of them has met with an error.

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
        """Waits for the save under way on all hosts; returns why it failed, the same on all."""
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
            checkpoint.close_failed(self._manager)
            self._manager = None  # the next save opens another
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
        self._problem = f"{where}{integrity.one_line(error)}"
        goes_on = f"training goes on, and tries again at the next save; newest: {self._newest}"
        print(f"WARNING: {_message(self._pending, self._problem)}; {goes_on}", file=sys.stderr, flush=True)


def _message(step: int, problem: str) -> str:
    return f"the checkpoint of step {step} could not be saved: {problem}"
