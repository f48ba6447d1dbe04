"""Executes the runs of a study in parallel processes. A run that was killed continues from its checkpoint."""

import concurrent.futures
import contextlib
import os
import pathlib
import time
import traceback
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool

import jax
from absl import logging

from cover_jax import errors
from cover_jax.fault_tolerance import workdir_lease
from cover_jax.parallel import compilation
from cover_jax.study import results
from cover_jax.study.design import Run
from cover_jax.tasks import metrics
from data_pipelines import processes

LOG = "log.txt"


class RunFailedError(RuntimeError):
    """A run of the study failed. The message names the run, the reason and its log file."""

    exit_code = errors.FAILED


def results_of(runs: list[Run], workdir: pathlib.Path, workers: int) -> list[dict]:
    """The results of all runs, in their order. Runs without results are trained first."""
    missing = [run for run in runs if results.load(run) is None]
    for run in missing:
        results.check_unfinished(run)
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them done before, in {workdir}", flush=True)
    start = time.perf_counter()
    for number, run in enumerate(all_of(missing, workdir, workers), 1):
        found = _result(run)
        accuracies = ", ".join(
            f"{name} {metrics.percent(top1, metrics.binomial_error(top1, len(found['hits'][name])))}"
            for name, top1 in found["top1"].items()
        )
        took = f"{found['seconds']:.0f} s; {number} of {len(missing)} after {time.perf_counter() - start:.0f} s"
        print(f"{run}: {accuracies} ({took})", flush=True)
    return [_result(run) for run in runs]


def _result(run: Run) -> dict:
    """The results that a finished run has written."""
    found = results.load(run)
    assert found is not None
    return found


def all_of(runs: list[Run], workdir: pathlib.Path, workers: int) -> Iterator[Run]:
    """Trains all runs, each after the run that it starts from, and yields each finished run.

    Args:
        runs: runs without results, in the order in which to start them.
        workdir: stores compiled programs, so that equal programs are compiled once.
        workers: number of processes. Each uses its share of the cores.

    Raises:
        RunFailedError: raised after the other active runs have ended.
    """
    waiting, folders = list(runs), {run.folder for run in runs}
    going: dict[concurrent.futures.Future, Run] = {}
    # XLA's threads per process. With fewer threads than devices, collectives may deadlock.
    os.environ["NPROC"] = str(max(_num_cores() // workers, int(os.environ.get("JAX_NUM_CPU_DEVICES", 1))))
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", str(workers == 1).lower())  # several processes share a GPU
    with processes.pool(workers, _begin, str(workdir / "compilation_cache")) as pool:
        while waiting or going:
            ready = [run for run in waiting if run.start not in folders][: workers - len(going)]
            waiting = [run for run in waiting if run not in ready]
            going |= {pool.submit(_train, run): run for run in ready}
            done, _ = concurrent.futures.wait(going, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                run, error = going.pop(future), future.exception()
                if isinstance(error, BrokenProcessPool):
                    names = "; ".join(map(str, [run, *going.values()]))
                    raise RunFailedError(
                        f"a process was killed, perhaps for lack of memory; it trained one of: {names}"
                    )
                if error:
                    where = run.folder / LOG
                    raise RunFailedError(f"{run}: {type(error).__name__}: {error} (see {where})") from error
                folders.remove(run.folder)
                yield run


def _num_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has none


def _begin(cache: str) -> None:
    """Sets up each process."""
    logging.set_verbosity(logging.WARNING)
    compilation.keep_compiled(cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # cache small programs too, for many runs


def _train(run: Run) -> None:
    """Trains one run to its end, and saves its results."""
    from cover_jax.training import loop  # loads TensorFlow, which the main process does not need

    run.folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with open(run.folder / LOG, "a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            with workdir_lease.hold(str(run.folder)):
                loop.train(run.config, str(run.folder))
            results.save(run, time.perf_counter() - start)
        except Exception:
            traceback.print_exc()
            raise
