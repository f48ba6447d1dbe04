"""The run that the soak disturbs, and the ledger of all that must be the same whatever happens to it."""

import collections
import contextlib
import json
import pathlib
import random
import re
import signal
import time
from collections.abc import Callable, Iterator

from cover_jax import errors
from tests.helpers import jobs
from tests.helpers.jobs import Job, steps_done

DATASETS = ("appearance", "images", "motion")
SAVE_STEPS, EVAL_STEPS = 5, 40
STEP_S, SAVE_S, END_S = 20, 60, 10  # config.timeouts, and from a fault on one host to the end of all
FLAGS = (
    "--config.plan=interleave", "--config.mesh.fsdp=2", "--config.steps=100000", "--config.optimizer.warmup_steps=50",
    f"--config.checkpoint_every_steps={SAVE_STEPS}", f"--config.eval_every_steps={EVAL_STEPS}",
    "--config.keep_checkpoints=3", f"--config.timeouts.step_s={STEP_S}", f"--config.timeouts.save_s={SAVE_S}",
)  # fmt: skip


class Ledger:
    """What was seen of the run by all its jobs: it must be the same whenever it is seen again.

    Attributes:
        fingerprints: step -> of every leaf of its checkpoint.
        rows: (step, dataset, key, row of the global batch) -> hash.
    """

    def __init__(self):
        self.fingerprints, self.rows = {}, {}

    def add_checkpoint(self, step: int, fingerprints: dict[str, str]) -> None:
        before = self.fingerprints.setdefault(step, fingerprints)
        differs = [path for path, value in fingerprints.items() if before.get(path) != value]
        assert not differs, f"step {step} is not bit for bit what it was before: {differs[:3]}"

    def add_rows(self, path: pathlib.Path) -> None:
        for where, digest in read_rows(path):
            assert self.rows.setdefault(where, digest) == digest, f"another batch than before: {where}"


def read_rows(path: pathlib.Path) -> Iterator[tuple[tuple, str]]:
    """((step, dataset, key, row), hash) of each whole line that a host has recorded."""
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):  # it was killed while it wrote
            where, digest = json.loads(line)
            yield tuple(where), digest


class Run:
    """One run of two processes, started again and again.

    Args:
        folder: for all files of the soak.
        disk: on which the run's workdir stands.
        seed: of everything that is drawn.

    Attributes:
        ends: how jobs that survived a fault were ended -> how often, and how often as promised.
    """

    def __init__(self, folder: pathlib.Path, disk: pathlib.Path, seed: int):
        self.folder, self.disk, self.workdir = folder, disk, disk / "run"
        self.rng, self.ledger, self._numbers = random.Random(seed), Ledger(), collections.Counter()
        self.ends = {name: [0, 0] for name in self._ends()}
        self._job, self._jobs = None, jobs.Jobs(folder / "jobs", DATASETS)
        self.data_dir = self._jobs.data_dir

    @property
    def newest(self) -> int:
        """Step of the newest checkpoint; 0: none yet."""
        return max(jobs.saved_steps(self.workdir), default=0)

    def last_words(self, most_lines: int = 40) -> str:
        """What the hosts of the last job printed at the end."""
        printed = [self._job.printed(host) for host in range(len(self._job.processes))] if self._job else []
        return "\n".join(
            f"[{host}] {line}" for host, text in enumerate(printed) for line in text.splitlines()[-most_lines:]
        )

    def new_folder(self, name: str) -> pathlib.Path:
        self._numbers[name] += 1
        path = self.folder / f"{name}{self._numbers[name]}"
        path.mkdir()
        return path

    @contextlib.contextmanager
    def start(self, *flags: str, workdir=None, hosts: int = 2, orders=None, is_same: bool = True, **more):
        """Yields a job of the run, or, with another workdir, of something beside it; then looks at what it did.

        Args:
            is_same: its batches must be those of the run.
            more: for `jobs.Jobs.start`.
        """
        recorded = self.new_folder("rows")
        orders = {host: {"record": str(recorded / str(host)), **(orders or {}).get(host, {})} for host in range(hosts)}
        with self._jobs.start(workdir or self.workdir, *FLAGS, *flags, hosts=hosts, orders=orders, **more) as job:
            job.rows, self._job = [recorded / str(host) for host in range(hosts)], job
            yield job
        for path in job.rows if is_same else ():
            self.ledger.add_rows(path)
        if workdir is None:
            self.look(self.workdir)

    def look(self, workdir: pathlib.Path) -> None:
        """Adds its checkpoints to the ledger."""
        for step in jobs.saved_steps(workdir):
            with contextlib.suppress(OSError):  # it was just removed: only the newest are kept
                self.ledger.add_checkpoint(step, jobs.fingerprints(workdir, step))

    def wait_for_a_moment(self, job: Job, most_steps: int = 12) -> None:
        """Any: before the first step, in the midst of a save, after some steps."""
        kind = self.rng.choice(["Gloo", "compiling", "saving", "steps", "steps", "steps"])
        if kind == "saving":
            job.until(lambda: any((self.workdir / "checkpoints").glob("*tmp*")))
        elif kind == "steps":
            steps = self.rng.randint(1, most_steps)
            job.until(lambda: steps_done(job) >= steps)
        else:
            job.until_printed(kind)
        time.sleep(self.rng.uniform(0, 0.3))

    def step_ahead(self, least: int, most: int) -> int:
        """One of the next steps, but none before which the run saves or evaluates."""
        ahead = range(self.newest + least, self.newest + most)
        return self.rng.choice([step for step in ahead if step % SAVE_STEPS])

    def go_on(self, job: Job, steps: int) -> None:
        """Waits until a job has done that many more steps, and saved some of them."""
        first, newest = steps_done(job), self.newest
        job.until(lambda: steps_done(job) >= first + steps and self.newest > newest)

    def _ends(self) -> dict[str, Callable[[Job], None]]:
        return {
            "SIGTERM": self.stop,
            "SIGHUP": lambda job: self.stop(job, signal.SIGHUP),
            "Ctrl-C": lambda job: self.stop(job, signal.SIGINT),
            "one host killed": lambda job: self.kill(job, [self.rng.randrange(2)]),
            "both hosts killed": lambda job: self.kill(job, [0, 1]),
        }

    def end(self, job: Job) -> None:
        """A second fault ends a job that survived its first one: most of what a fault costs is the start of its job."""
        name, end = self.rng.choice(list(self._ends().items()))
        self.ends[name][0] += 1
        end(job)
        self.ends[name][1] += 1

    def kill(self, job: Job, hosts: list[int]) -> None:
        """Those that are not killed end soon."""
        for host in hosts:
            job.processes[host].send_signal(signal.SIGKILL)
        codes = job.codes()
        assert set(codes) <= {-signal.SIGKILL, errors.LOST_PEER} and -signal.SIGKILL in codes, codes

    def stop(self, job: Job, number: signal.Signals = signal.SIGTERM) -> None:
        """A signal to one host: all save one step, and none that was done is lost."""
        job.processes[self.rng.randrange(len(job.processes))].send_signal(number)
        codes = job.codes()
        assert codes == [errors.INTERRUPTED if number == signal.SIGINT else errors.PREEMPTED] * len(codes), codes
        (step,) = re.findall(r"(?:SIGTERM|Ctrl-C): step (\d+) is saved", job.printed())
        assert int(step) >= jobs.completed(job.printed()), "a step that was done is lost"
