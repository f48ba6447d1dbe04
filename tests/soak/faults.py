"""The faults: each starts the run, or something beside it, does something to it and asserts what is promised then."""

import hashlib
import json
import pathlib
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable

import numpy as np

from cover_jax import errors
from data_pipelines.stream import records
from tests.fault_tolerance import test_buckets
from tests.helpers import fake_gcs, jobs, tiny_run
from tests.helpers.jobs import steps_done
from tests.soak.run import DATASETS, END_S, EVAL_STEPS, SAVE_S, SAVE_STEPS, Run, read_rows

# Of a checkpoint; what else there is of orbax's book-keeping is not needed to read it.
NEEDED = re.compile(r"meta/metadata|metrics/metrics|state/_METADATA|state/manifest|state/d/")
# That one host may write per file. Its part of a checkpoint, 1.2 MB, is divided by chance into 2 to 6 files, of which
# the largest had 320 to 910 kB; the largest of what else it writes, the ledger's rows, had 143 kB.
FILE_BYTES = 250_000
WHOLE = hashlib.sha1(np.float32(1).tobytes()).hexdigest()  # the weight of an example that is not damaged


def kill_one_host(run: Run) -> None:
    _kill(run, [run.rng.randrange(2)])


def kill_both_hosts(run: Run) -> None:
    _kill(run, [0, 1])


def _kill(run: Run, hosts: list[int]) -> None:
    with run.start() as job:
        run.wait_for_a_moment(job)
        run.kill(job, hosts)


def sigterm(run: Run) -> None:
    with run.start() as job:
        run.wait_for_a_moment(job)
        run.stop(job)


def hangup_or_interrupt(run: Run) -> None:
    """SIGHUP does what SIGTERM does; Ctrl-C too, with another code."""
    steps, number = run.rng.randint(1, 9), run.rng.choice([signal.SIGHUP, signal.SIGINT])
    with run.start() as job:
        job.until(lambda: steps_done(job) >= steps)
        run.stop(job, number)


def kill_one_of_four(run: Run) -> None:
    """Beside the run, from its newest checkpoint: what four hosts have read before is what two would read."""
    aside, host = _copy_aside(run), run.rng.randrange(4)
    flags = (f"--config.checkpoint_every_steps={10**6}", "--config.mesh.fsdp=2")
    with run.start(*flags, workdir=aside, hosts=4, env={"JAX_NUM_CPU_DEVICES": "1"}) as job:
        job.until(lambda: steps_done(job) >= 2)
        job.processes[host].send_signal(signal.SIGKILL)
        codes = job.codes(within_s=END_S)
        assert codes == [-signal.SIGKILL if one == host else errors.LOST_PEER for one in range(4)], codes
    shutil.rmtree(aside)


def exception_on_one_host(run: Run) -> None:
    failing, step = run.rng.randrange(2), run.step_ahead(2, 12)
    with run.start(orders={failing: {"raise_at": step}}) as job:
        job.until(lambda: f"step {step}/" in job.printed() or job.processes[failing].poll() is not None)
        assert job.codes(within_s=END_S) == [errors.FAILED] * 2
        expected = f"error on host {failing}: OSError: nothing can be read at step {step}"
        assert [job.last_line(host) for host in range(2)] == [expected] * 2


def hung_reader(run: Run) -> None:
    step = run.step_ahead(8, 14)  # not the first one on a dataset, which may take longer
    with run.start(orders={run.rng.randrange(2): {"hang_at": step}}) as job:
        job.until(lambda: f"step {step}/" in job.printed())
        assert job.codes(within_s=SAVE_S + END_S) == [errors.HUNG] * 2
        assert all(jobs.has_stacks(job.printed(host)) for host in range(2))


def host_that_stands_still(run: Run) -> None:
    still = run.rng.randrange(2)
    with run.start() as job:
        # Not the first step on a dataset, which may take longer, nor an evaluation.
        job.until(lambda: steps_done(job) >= 8 and 2 <= jobs.completed(job.printed()) % EVAL_STEPS <= EVAL_STEPS - 5)
        job.processes[still].send_signal(signal.SIGSTOP)
        assert job.codes([1 - still], within_s=SAVE_S + END_S) == [errors.HUNG]
        assert jobs.has_stacks(job.printed(1 - still))
        job.processes[still].send_signal(signal.SIGCONT)
        # Of one that stood still for longer than its own time, C code ends it, which knows no other code than 1.
        assert job.codes([still], within_s=END_S)[0] in (errors.HUNG, errors.LOST_PEER, errors.FAILED)


def batch_that_is_not_finite(run: Run) -> None:
    step = run.step_ahead(1, 12)
    with run.start(orders={run.rng.randrange(2): {"poison_at": step}}, is_same=False) as job:
        assert job.codes() == [errors.DIVERGED] * 2
        (line,) = {job.last_line(host) for host in range(2)}
        assert re.search(rf"step {step + 1} on ({'|'.join(DATASETS)}) \(examples \d+, ", line), line
    assert run.newest <= step


def full_disk(run: Run) -> None:
    with run.start() as job:
        run.go_on(job, 3)
        filler = jobs.fill(run.disk)
        try:
            job.until(lambda: "could not be saved" in job.printed(0) + job.printed(1))
            intact = run.newest
        finally:
            filler.unlink()
        job.until(lambda: run.newest > intact)
        run.end(job)


def limit_files(job, host: int, most_bytes: int) -> None:
    resource.prlimit(job.processes[host].pid, resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))


def write_error_on_one_host(run: Run) -> None:
    host = run.rng.randrange(2)
    with run.start() as job:
        run.go_on(job, 3)
        limit_files(job, host, FILE_BYTES)
        job.until(lambda: "File too large" in job.printed(host))
        intact = run.newest
        limit_files(job, host, resource.RLIM_INFINITY)
        job.until(lambda: run.newest > intact)
        assert "training continues" in job.printed(host)
        run.end(job)


def last_save_that_fails(run: Run) -> None:
    host = run.rng.randrange(2)
    with run.start() as job:
        run.go_on(job, 3)
        limit_files(job, host, FILE_BYTES)
        job.processes[0].terminate()
        assert job.codes() == [errors.NOT_SAVED] * 2
        assert "could not be saved" in job.last_line(host)


def flipped_bit(run: Run) -> None:
    def flip(content: bytes) -> bytes:
        bit = run.rng.randrange(8 * len(content))
        return content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]

    _damage(run, lambda path: path.write_bytes(flip(path.read_bytes())), is_always_noticed=False)


def truncated_file(run: Run) -> None:
    _damage(run, lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]))


def deleted_file(run: Run) -> None:
    _damage(run, pathlib.Path.unlink)


def _damage(run: Run, damage: Callable[[pathlib.Path], None], is_always_noticed: bool = True) -> None:
    """Where it is not noticed, the ledger tells whether it was read bit for bit."""
    while len(jobs.saved_steps(run.workdir)) < 2:
        with run.start() as job:
            run.go_on(job, 2 * SAVE_STEPS)
            run.stop(job)
    newest = run.workdir / "checkpoints" / str(run.newest)
    files = [path for path in sorted(newest.rglob("*")) if path.is_file() and path.stat().st_size]
    path = run.rng.choice([path for path in files if NEEDED.search(str(path))])
    damage(path)
    aside = _set_aside(run)
    with run.start() as job:
        job.until_printed("compiling")
        noticed = f"{newest} is damaged, set aside as" in job.printed()
        assert noticed == (_set_aside(run) > aside) and (noticed or not is_always_noticed), f"{path}: {noticed=}"
        run.go_on(job, SAVE_STEPS)
        run.end(job)


def _set_aside(run: Run) -> int:
    """How many checkpoints were."""
    return len(list((run.workdir / "damaged").glob("*")))


def shard_that_is_away_for_a_while(run: Run) -> None:
    with run.start() as job:
        run.go_on(job, 3)
        shard = a_shard(run)
        away = shard.rename(shard.with_suffix(".away"))
        time.sleep(run.rng.uniform(0.5, 3))
        away.rename(shard)
        run.go_on(job, 6)
        run.end(job)


def shard_that_is_lost(run: Run) -> None:
    with run.start() as job:
        run.go_on(job, 3)
        shard = a_shard(run)
        away = shard.rename(shard.with_suffix(".away"))
        try:
            # Not at once: batches that were read before are trained on first, and the shard is tried again for 7 s.
            assert job.codes(within_s=SAVE_S + END_S) == [errors.FAILED] * 2
            assert all(str(shard) in job.last_line(host) for host in range(2)), job.last_line()
        finally:
            away.rename(shard)


def shard_that_is_missing_at_the_start(run: Run) -> None:
    shard = a_shard(run)
    away = shard.rename(shard.with_suffix(".away"))
    try:
        with run.start() as job:
            assert job.codes() == [errors.CONFIG] * 2
            assert all(f"shard {shard} is missing" in job.last_line(host) for host in range(2)), job.last_line()
    finally:
        away.rename(shard)


def a_shard(run: Run) -> pathlib.Path:
    """Of the training data of any dataset."""
    return pathlib.Path(_split(run.rng.choice(DATASETS), run.data_dir).paths[0])


def _split(name: str, data_dir) -> records.Split:
    return records.open_split(f"digits/{name}", "train", str(data_dir))


def second_job(run: Run) -> None:
    with run.start() as job:
        run.go_on(job, 1)
        with run.start(hosts=1) as second:
            assert second.codes() == [errors.IN_USE]
            assert f"in use by process {job.processes[0].pid} on " in second.last_line()
        run.go_on(job, 1)
        run.end(job)


BAD_FLAGS = {
    "--config.optimizer.learning_rat=1": "learning_rate", "--config.datasets.images.batch_size=0": "images.batch_size",
    "--config.timeouts.step_s=-1": "timeouts.step_s", "--config.mesh.fsdp=7": "mesh",
    "--config.plan=all": "config.plan",
}  # fmt: skip


def bad_config(run: Run) -> None:
    flag = run.rng.choice(list(BAD_FLAGS))
    with run.start(flag, hosts=1) as job:
        assert job.codes(within_s=10) == [errors.CONFIG]
        assert BAD_FLAGS[flag] in job.last_line(), job.last_line()


def other_devices(run: Run) -> None:
    """What is restored is what was saved, or it would be called damaged; and the batches are the same."""
    hosts, devices = run.rng.choice([(1, 1), (1, 2), (1, 4), (2, 2), (4, 1)])
    aside, fsdp = _copy_aside(run), min(2, hosts * devices)
    env = {"JAX_NUM_CPU_DEVICES": str(devices)}
    mesh = (f"--config.mesh.fsdp={fsdp}", f"--config.checkpoint_every_steps={10**6}")
    with run.start(*mesh, workdir=aside, hosts=hosts, env=env) as job:
        job.until(lambda: steps_done(job) >= 4)
        assert "damaged" not in job.printed() and f"continuing from {aside}/checkpoints/{run.newest}" in job.printed()
        run.stop(job)
    shutil.rmtree(aside)


def _copy_aside(run: Run) -> pathlib.Path:
    """A workdir with the run's newest checkpoint; there is one from here on."""
    while not run.newest:
        with run.start() as job:
            run.go_on(job, SAVE_STEPS)
            run.stop(job)
    aside = run.new_folder("aside")
    shutil.copytree(run.workdir / "checkpoints" / str(run.newest), aside / "checkpoints" / str(run.newest))
    return aside


def corrupt_examples(run: Run) -> None:
    """They weigh nothing, the rows beside them are bit for bit what they were; more than the budget ends all."""
    aside, name = _copy_aside(run), run.rng.choice(DATASETS)
    damaged = run.rng.sample(range(96), 10)
    shutil.copytree(run.data_dir, aside / "data")
    tiny_run.damage(_split(name, aside / "data"), damaged)
    flags = (f"--config.data_dir={aside / 'data'}", f"--config.checkpoint_every_steps={10**6}")
    with run.start("--config.input.max_bad_share=0.5", *flags, workdir=aside, is_same=False) as job:
        job.until(lambda: steps_done(job) >= 36)  # as many as an epoch of each
        run.stop(job)
        told = set(map(int, re.findall(rf"{name}: example (\d+) cannot be decoded", job.all_printed())))
        assert told and told <= set(damaged), f"{told} and not {damaged}"
    compare_rows_beside(run, job, name)
    with run.start("--config.input.max_bad_share=0.05", *flags, workdir=aside, is_same=False) as job:
        assert job.codes() == [errors.BAD_DATA] * 2
        (line,) = {job.last_line(host) for host in range(2)}
        assert re.search(rf"on {name}: \d+ of its 96 training examples cannot be decoded", line), line
    shutil.rmtree(aside)


def compare_rows_beside(run: Run, job, name: str) -> None:
    """All that has weight is as in the run."""
    found = dict(pair for path in job.rows for pair in read_rows(path))
    weightless = {where for where, digest in found.items() if where[2] == "weight" and digest != WHOLE}
    assert {where[1] for where in weightless} == {name}
    rows = {(step, dataset, row) for step, dataset, _, row in weightless}
    for (step, dataset, key, row), digest in found.items():
        if (step, dataset, row) not in rows or key in ("index", "seed"):
            before = run.ledger.rows.setdefault((step, dataset, key, row), digest)
            assert before == digest, f"another batch than before: {(step, dataset, key, row)}"


def bucket_that_often_fails(run: Run) -> None:
    """From the first step on, in a bucket that refuses 30 % of all requests."""
    with fake_gcs.serve(run.new_folder("bucket")) as storage:
        storage.unavailable = 0.3
        env = storage.environment | test_buckets.QUICK_RETRIES
        key = "bucket", f"run/checkpoints/{SAVE_STEPS}/meta/metadata"
        flags = ("--config.eval_every_steps=1000", "--config.timeouts.save_s=900")  # orbax's client waits between tries
        with run.start(*flags, workdir="gs://bucket/run", env=env) as job:
            job.until(lambda: steps_done(job) > SAVE_STEPS and key in storage.objects)
            run.stop(job)
        assert storage.refused > storage.requests / 5
        run.ledger.add_checkpoint(SAVE_STEPS, json.loads(storage.objects[key][0])["fingerprints"])
