"""`python -m tests.soak --minutes=60 --seed=0`: a run of two processes on three datasets, and faults all the time.

Faults come in an order that the seed decides, each as often as FAULTS says. A job that survives its fault is ended by
a second one: a signal, or a kill of one host or both. At the end an undisturbed run of as many steps is made: every
checkpoint that was seen, the last one among them, must have its parameters and all else of its state bit for bit, and
every batch its bytes. Ends with 1 if a promise was broken. Linux, and root for the full disk.
"""

import argparse
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import traceback

from tests.helpers import jobs
from tests.helpers.jobs import steps_done
from tests.soak import faults, faults_at_start
from tests.soak.run import EVAL_STEPS, SAVE_STEPS, Run

DISK = "400m"
# Fault -> how often it comes before all come again.
FAULTS = {
    faults.kill_one_host: 2,
    faults.kill_both_hosts: 2,
    faults.sigterm: 2,
    faults.exception_on_one_host: 2,
    faults.hung_reader: 1,
    faults.host_that_stands_still: 1,
    faults.batch_that_is_not_finite: 2,
    faults.full_disk: 1,
    faults.write_error_on_one_host: 1,
    faults.last_save_that_fails: 1,
    faults.flipped_bit: 3,
    faults.truncated_file: 1,
    faults.deleted_file: 1,
    faults.shard_that_is_away_for_a_while: 2,
    faults.shard_that_is_lost: 1,
    faults.shard_that_is_missing_at_the_start: 1,
    faults.second_job: 1,
    faults.bad_config: 1,
    faults.other_devices: 2,
    faults.corrupt_examples: 1,
    faults.bucket_that_often_fails: 1,
    faults.hangup_or_interrupt: 1,
    faults.kill_one_of_four: 1,
    faults_at_start.hosts_that_differ: 3,
    faults_at_start.damaged_small_file: 3,
    faults_at_start.storage_that_is_full_at_the_start: 1,
    faults_at_start.clock_that_is_set: 1,
}


class Soak:
    """Counts what was injected and what was survived."""

    def __init__(self, run: Run):
        self._run, self._start = run, time.monotonic()
        self.injected, self.survived = {fault.__name__: 0 for fault in FAULTS}, {fault.__name__: 0 for fault in FAULTS}

    def minutes(self) -> float:
        return (time.monotonic() - self._start) / 60

    def inject(self, fault) -> None:
        name, start = fault.__name__, time.monotonic()
        self.injected[name] += 1
        survived = self.try_to(name, lambda: fault(self._run))
        self.survived[name] += survived
        took = f"{time.monotonic() - start:.0f} s"
        said = "survived" if survived else "BROKEN"
        print(f"{self.minutes():6.1f} min: {name}: {said}, {took}, at step {self._run.newest}", flush=True)

    def try_to(self, name: str, do) -> bool:
        """Whether it went as promised; says what did not."""
        try:
            do()
        except Exception as error:
            print(f"BROKEN PROMISE: {name}: {error}", flush=True)
            traceback.print_exc()
            print(self._run.last_words(), flush=True)
            return False
        return True

    def table(self) -> str:
        """How often each fault was injected and survived, also those that ended a job after its first fault."""
        rows = [(name.replace("_", " "), count, self.survived[name]) for name, count in self.injected.items()]
        rows += [(f"after another fault: {name}", *counts) for name, counts in self._run.ends.items()]
        total = ("all", sum(row[1] for row in rows), sum(row[2] for row in rows))
        lines = [("fault", "injected", "survived"), *rows, total]
        return "\n".join(f"{name:42}{injected:>9}{survived:>10}" for name, injected, survived in lines)


def compile_all(run: Run) -> None:
    """In a run beside it, so that each start of the run finds its programs compiled, also those of an evaluation."""
    with run.start(workdir=run.folder / "first") as job:
        for step in range(1, EVAL_STEPS + 2):
            job.until(lambda: steps_done(job) >= step)  # noqa: B023 - called at once
        run.stop(job)


def disturb(soak: Soak, run: Run, minutes: float) -> None:
    """Fault after fault, until the time is over."""
    while True:
        deck = [fault for fault, times in FAULTS.items() for _ in range(times)]
        run.rng.shuffle(deck)
        for fault in deck:
            if soak.minutes() >= minutes:
                return
            soak.inject(fault)


def end_in_peace(run: Run) -> int:
    """The run goes on to its last checkpoint at one of the regular steps, which is returned."""
    with run.start() as job:
        run.go_on(job, 2 * SAVE_STEPS)
        run.stop(job)
    verified = subprocess.run([sys.executable, "-m", "cover_jax.checkpoint", "verify", run.workdir])
    assert verified.returncode == 0, "its checkpoints are damaged"
    return max(step for step in jobs.saved_steps(run.workdir) if step % SAVE_STEPS == 0)


def compare_with_undisturbed(run: Run, last: int) -> None:
    """As many steps without any fault; its ledger is the run's, so that whatever differs is told."""
    workdir, disturbed = run.folder / "undisturbed", set(run.ledger.fingerprints)
    rows = len(run.ledger.rows)
    with run.start("--config.keep_checkpoints=1000000", workdir=workdir) as job:
        while last not in (saved := jobs.saved_steps(workdir)):
            job.until(lambda: jobs.saved_steps(workdir) > saved)  # noqa: B023 - called at once
        run.stop(job)
    run.look(workdir)
    both = sorted(disturbed & set(jobs.saved_steps(workdir)))
    assert last in both
    print(f"bit for bit as undisturbed: {len(both)} checkpoints, the last of step {last}, and {rows} rows of batches")


def endure(minutes: float, seed: int, folder: pathlib.Path) -> bool:
    """Whether every promise was kept."""
    with contextlib.ExitStack() as stack:
        run = Run(folder, stack.enter_context(jobs.small_disk(folder / "disk", DISK)), seed)
        compile_all(run)
        soak = Soak(run)
        disturb(soak, run, minutes)
        last = []
        kept = soak.try_to("end in peace", lambda: last.append(end_in_peace(run)))
        kept = kept and soak.try_to("bit for bit", lambda: compare_with_undisturbed(run, last[0]))
        print(soak.table())
        return kept and soak.survived == soak.injected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="of faults; the undisturbed run comes after them")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"  # libtpu, where it is loaded, aborts if the clock is set forward
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup` ignores it, hosts inherit that, and a run goes on then
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that nothing is left mounted or running
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        kept = endure(args.minutes, args.seed, pathlib.Path(folder))
    print("every promise was kept" if kept else "a promise was BROKEN: see above")
    sys.exit(not kept)


if __name__ == "__main__":
    main()
