"""Faults at the start: hosts that differ, damaged small files, full storage; and clocks that are set.

Like `faults`: each asserts what is promised, and the run goes on from where it was.
"""

import pathlib
from collections.abc import Callable

from cover_jax import errors
from data_pipelines.stream import records
from tests.helpers import jobs, preloaded
from tests.soak.faults import a_shard
from tests.soak.run import Run

HOUR_S = 3600

# What one of two hosts has otherwise -> what both name.
DIFFERENCES = {
    "--config.optimizer.learning_rate=0.5": "config.optimizer.learning_rate: ",
    "--config.seed=7": "config.seed: 0 on host 0, 7 on host 1",
    "--config.steps=99": "config.steps: ",
    "--config.datasets.images.batch_size=16": "config.datasets.images.batch_size: ",
    "--config.checkpoint_every_steps=7": "config.checkpoint_every_steps: ",
    "--config.model.gelu=tanh": "config.model.gelu: ",
    "--config.optimizer.learning_rate=-1": "config.optimizer.learning_rate=-1",
}


def hosts_that_differ(run: Run) -> None:
    """Another config, workdir or number of devices on one host."""
    flag = run.rng.choice([*DIFFERENCES, "workdir", "devices"])
    own = {"flags_of": {1: [flag]}}
    named = DIFFERENCES.get(flag, "")
    if flag == "workdir":
        own = {"flags_of": {1: [f"--workdir={run.new_folder('other')}"]}}
        named = "host 1 does not see what host 0 wrote there; must be one folder"
    elif flag == "devices":
        own, named = {"env_of": {1: {"JAX_NUM_CPU_DEVICES": "3"}}}, "number of devices: 1 on host 0, 3 on host 1"
    newest = run.newest
    with run.start(is_same=False, **own) as job:
        assert job.codes() == [errors.CONFIG] * 2, job.all_printed()
        assert all(named in job.last_line(host) for host in range(2)), job.all_printed()
        assert "compiling" not in job.all_printed() and run.newest == newest


def _flipped(content: bytes, run: Run) -> bytes:
    bit = run.rng.randrange(8 * len(content))
    return content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]


DAMAGES: dict[str, Callable[[bytes, Run], bytes]] = {
    "a flipped bit": _flipped,
    "the first half": lambda content, run: content[: len(content) // 2],
    "nothing": lambda content, run: b"",
    "other bytes": lambda content, run: run.rng.randbytes(len(content)),
}


def damaged_small_file(run: Run) -> None:
    """Those of the workdir and offset indices are made anew; without those of the dataset nothing starts."""
    if not (run.workdir / "lease.json").exists():
        with run.start() as job:
            run.go_on(job, 1)
            run.stop(job)
    shard = a_shard(run)
    name = run.rng.choice(["lease.json", "first_start.json", "index", "dataset_info.json", "features.json"])
    is_of_data = name.endswith(("info.json", "features.json"))
    path = pathlib.Path(f"{shard}{records.INDEX_SUFFIX}") if name == "index" else run.workdir / name
    path = shard.parent / name if is_of_data else path
    content, damage = path.read_bytes(), run.rng.choice(list(DAMAGES))
    path.write_bytes(DAMAGES[damage](content, run))
    try:
        with run.start() as job:
            if is_of_data:
                assert job.codes() == [errors.CONFIG] * 2, f"{path}: {damage}: {job.all_printed()}"
                assert all(str(path) in job.last_line(host) for host in range(2)), job.all_printed()
                return
            run.go_on(job, 1)
            run.end(job)
    finally:
        if is_of_data:
            path.write_bytes(content)


def storage_that_is_full_at_the_start(run: Run) -> None:
    filler = jobs.fill(run.disk)
    try:
        with run.start() as job:
            assert job.codes() == [errors.NOT_SAVED] * 2, job.all_printed()
            named = f"--workdir={run.workdir}: cannot be written at the start: "
            assert all(named in job.last_line(host) for host in range(2)), job.all_printed()
    finally:
        filler.unlink()


def clock_that_is_set(run: Run) -> None:
    """That of one of the hosts, by hours in both directions, while the run trains and saves.

    Never to before the start: JAX's service on host 0 does not stand that.
    """
    clock = preloaded.SteppedClock(run.new_folder("clock"))
    with run.start(env_of={run.rng.randrange(2): clock.environment}) as job:
        for hours in (run.rng.choice([1, 2, 5]), 0, run.rng.choice([1, 3])):
            run.go_on(job, 2)
            clock.set_ahead(hours * HOUR_S)
        run.go_on(job, 2)
        assert "could not be saved" not in job.all_printed()
        run.end(job)
