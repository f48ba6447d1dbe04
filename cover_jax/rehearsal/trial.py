"""Takes a few steps, evaluates, saves and restores, with the code of a run, and measures how long each takes."""

import contextlib
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from etils import epath

from cover_jax import errors
from cover_jax.checkpoint import fingerprint, restore
from cover_jax.checkpoint.saver import Saver
from cover_jax.fault_tolerance import exit_process, process, workdir_lease
from cover_jax.parallel import chips, hosts, sharding
from cover_jax.rehearsal import memory
from cover_jax.rehearsal.findings import Findings
from cover_jax.rehearsal.programs import Programs
from cover_jax.training import health, inputs, run_history
from cover_jax.training.run import Run
from cover_jax.training.run_history import RunHistory
from cover_jax.training.train_step import TrainState
from data_pipelines import command_line
from data_pipelines.stream import pipeline

STEPS = 3  # on each set of datasets; the first one is not timed
EVAL_BATCHES = 3  # that are timed per dataset, after the first one
STEPS_S = 60.0  # after it, two steps on each further set of datasets are enough
EVALUATION_S = 60.0  # after it, one timed batch of each further dataset is enough
_REMOVAL_TRIES = 10  # other hosts may still be writing while they end
_REMOVAL_RETRY_S = 0.3


@contextlib.contextmanager
def scratch_folder(workdir: str, findings: Findings) -> Iterator[str | None]:
    """A folder beside the workdir, held by this job, and removed at the end; None if nothing can be written there.

    Whichever host ends, and whyever: each host that can still do so removes it, and the last one what the others have
    written in the meantime.
    """
    folder = epath.Path(f"{str(workdir).rstrip('/')}.rehearsal")
    if not _can_write(folder, workdir, findings):
        yield None
        return
    take_back: Callable[[], None] | None = None

    def remove_at_the_end() -> None:
        nonlocal take_back
        take_back = exit_process.before_exit(lambda code, cause: _remove(folder))

    try:
        workdir_lease.check_is_shared(str(folder), needs_writing=True)
        with workdir_lease.hold(str(folder), remove_at_the_end):
            if jax.process_index() == 0:
                (folder / "checkpoints").rmtree(missing_ok=True)  # of a rehearsal that was killed
            yield str(folder)
        if take_back:
            take_back()
        if jax.process_index() == 0:
            folder.rmtree(missing_ok=True)
    except workdir_lease.WorkdirInUseError:
        raise
    except BaseException:
        if take_back and jax.process_count() == 1:
            take_back()
            take_back = None
        if take_back is None and jax.process_index() == 0:  # otherwise all hosts end, and remove it then
            _remove(folder)
        raise


def _remove(folder: epath.Path) -> None:
    """Removes a folder in which other threads and hosts may still be writing. Its storage may not answer, either."""
    for _ in range(_REMOVAL_TRIES):
        with contextlib.suppress(Exception):
            folder.rmtree(missing_ok=True)
            if not folder.exists():
                return
        time.sleep(_REMOVAL_RETRY_S)


def _can_write(folder: epath.Path, workdir: str, findings: Findings) -> bool:
    """Whether the first host can write into the folder. The answer is the same on all hosts."""
    answer = ""
    if jax.process_index() == 0:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "README.txt").write_text("Scratch of a rehearsal (cover_jax/rehearsal). It may be deleted.\n")
        except Exception as error:
            denied = command_line.exit_code(error) == errors.CONFIG or "PermissionDenied" in type(error).__name__
            answer = f"{errors.CONFIG if denied else errors.NOT_SAVED} {command_line.one_line(error)}"
    code, _, reason = hosts.exchange(answer)[0].partition(" ")
    if code:
        findings.add(f"--workdir={workdir}: {folder} beside it cannot be written: {reason}", int(code))
    return not code


def begin(run: Run, complete: bool, findings: Findings) -> tuple[TrainState, RunHistory]:
    """The state and history that the run would begin with.

    Args:
        complete: the run has all its datasets. Otherwise a checkpoint cannot be restored.
    """
    process.enter_phase("start", "the first state")
    with findings.collect(together=True):
        if complete:
            return run.restore_or_init(set_aside=False)
    return run.setup.new_state(), run_history.begin(run.mix)


def take_steps(run: Run, state: TrainState, history: RunHistory, programs: Programs, findings: Findings) -> TrainState:
    """Takes STEPS steps on each set of datasets, and measures them without their input."""
    bad: dict[str, list[int]] = {}
    with findings.stage("steps") as has_time:
        for names in programs.steps:
            with findings.collect(f"steps on {', '.join(names)}: ", together=True):
                with contextlib.ExitStack() as stack:
                    counts = history.batch_schedule.counts(history.batch_schedule.step)
                    streams = {
                        name: stack.enter_context(
                            inputs.open_stream(run.config, name, run.train_splits[name], run.setup.mesh, counts[name])
                        )
                        for name in run.setup.train_batches(names)
                    }
                    seconds: list[float] = []
                    while len(seconds) < 2 or (len(seconds) < STEPS and has_time(STEPS_S)):
                        state, taken_s = _take_step(run, state, streams, bad, len(seconds), findings)
                        seconds.append(taken_s)
                findings.measured[f"{'+'.join(names)}/step_s"] = float(np.mean(seconds[1:]))
            if any(leaf.is_deleted() for leaf in jax.tree.leaves(state)):  # donated to a step that failed
                state = run.setup.new_state()
    findings.agree()
    return state


def _take_step(
    run: Run,
    state: TrainState,
    streams: dict[str, pipeline.Stream],
    bad: dict[str, list[int]],
    number: int,
    findings: Findings,
) -> tuple[TrainState, float]:
    """(the next state, the seconds that the step took with its batches in memory)."""
    process.enter_phase("step", f"rehearsed step {number + 1} on {', '.join(streams)}")
    batches = {name: next(stream) for name, stream in streams.items()}
    for name, batch in batches.items():
        health.report_undecodable(jax.process_index(), name, batch, bad, streams[name])
    start = time.perf_counter()
    with jax.transfer_guard("disallow"):
        on_device = {name: sharding.put_batch(batch, run.setup.mesh) for name, batch in batches.items()}
        state, measured = run.setup.train_step(state, on_device)
    measured = jax.device_get(measured)
    taken_s = time.perf_counter() - start
    health.add_undecodable(bad, measured.pop("undecodable"))
    with findings.collect():  # the same on all hosts
        health.check_undecodable(run.config.input.max_bad_share, number, bad, run.num_examples)
    with findings.collect():
        if warning := health.check_divergence(run.config, number, measured, {}):
            findings.warn(warning)
    return state, taken_s


def evaluate(run: Run, state: TrainState, programs: Programs, findings: Findings) -> None:
    """Evaluates batches of each dataset, and measures them with their input."""
    with findings.stage("evaluation") as has_time:
        for name in programs.evaluations:
            with findings.collect(f"evaluation of {name}: ", together=True):
                run.evaluator.evaluate(state.eval_params, name, most_batches=1)
                batches = min(EVAL_BATCHES if has_time(EVALUATION_S) else 1, run.evaluator.num_batches(name))
                start = time.perf_counter()
                run.evaluator.evaluate(state.eval_params, name, most_batches=batches)
                findings.measured[f"{name}/eval_batch_s"] = (time.perf_counter() - start) / batches
    findings.agree()


def note_device_memory(findings: Findings) -> None:
    """Notes the most that this host's devices have used so far, unless it is known or they do not count it."""
    if "device_peak_gib" not in findings.measured and (peak_gib := memory.device_peak_gib()) is not None:
        findings.measured["device_peak_gib"] = peak_gib


def save_and_restore(run: Run, state: TrainState, history: RunHistory, scratch: str, findings: Findings) -> None:
    """Saves the state into `scratch`, deletes it, and restores it from there. Measures saving and restoring."""
    process.enter_phase("save", "in the scratch folder of the rehearsal")
    meta = run.meta | {"history": history.to_json(int(state.step))}
    findings.facts["checkpoint_gib"] = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / chips.GIB
    with findings.stage("checkpoint"), findings.collect("checkpoint: ", together=True):
        fingerprint.fingerprint_tree(state)  # compiled once per run, so that is no part of a save
        with Saver(run.config, scratch) as saver:
            start = time.perf_counter()
            saver.save(state, meta, None)
            findings.measured["save_blocks_s"] = time.perf_counter() - start
            problem = saver.wait()  # the same on all hosts
            findings.measured["save_s"] = time.perf_counter() - start
        if problem:
            findings.add(f"{problem}: make space, or choose another --workdir", errors.NOT_SAVED)
            return
        process.enter_phase("start", "restoring from the scratch folder of the rehearsal")
        note_device_memory(findings)
        for leaf in jax.tree.leaves(state):  # a run never holds two states
            leaf.delete()
        start = time.perf_counter()
        restored, _ = restore.restore_newest(scratch, lambda saved: run.setup.state, run.meta, set_aside=False)
        jax.block_until_ready(restored)
        findings.measured["restore_s"] = time.perf_counter() - start
    findings.agree()
