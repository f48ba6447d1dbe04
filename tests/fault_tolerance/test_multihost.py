"""Two and four processes on 127.0.0.1 train, evaluate, save and go on as one process does."""

import dataclasses
import functools
import json
import os
import pathlib
import re
import time

import jax
import numpy as np
import pytest
import tensorflow as tf
from etils import epath

from cover_jax import errors
from cover_jax.checkpoint import restore
from cover_jax.evaluation import saved_predictions
from data_pipelines.stream import records
from tests.helpers import jobs, tiny_run

STEPS = 10
SMALL = [
    f"--config.steps={STEPS}", f"--config.checkpoint_every_steps={STEPS}", f"--config.eval_every_steps={STEPS}",
    "--config.log_every_steps=1", "--config.optimizer.warmup_steps=2", "--config.plan=joint",
]  # fmt: skip
TIMEOUT_S = 900  # hosts with 4 % of a core each were still starting after 400

pytestmark = pytest.mark.slow


@dataclasses.dataclass
class Job:
    """Processes that have ended.

    Attributes:
        codes: exit code of each.
        printed: what each printed.
        rows: (step, dataset, key, row of the global batch) -> hash, from all of them.
    """

    codes: list[int]
    printed: list[str]
    rows: dict[tuple, str]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a job on a number of processes, four devices in all, to its end; all jobs share their data."""
    data_dir = tmp_path_factory.mktemp("digits")

    def run(workdir, processes, *flags, orders=None):
        folder = tmp_path_factory.mktemp("job")
        env = os.environ | {"JAX_NUM_CPU_DEVICES": str(4 // processes)}
        reserved, address = jobs.reserve_address()
        env["JAX_COORDINATOR_BIND_ADDRESS"] = address
        commands = []
        for host in range(processes):
            order = {"record": str(folder / f"rows{host}"), **(orders or {}).get(host, {})}
            commands.append([
                json.dumps(order), "--config=configs/demo.py",
                f"--workdir={workdir}", f"--config.data_dir={data_dir}", *SMALL, *flags,
                *([f"--coordinator={address}", f"--num_processes={processes}", f"--process_id={host}"]
                  if processes > 1 else []),
            ])  # fmt: skip
        with reserved:
            return _wait(commands, env, folder)

    return run


def _wait(commands: list[list[str]], env: dict, folder: pathlib.Path) -> Job:
    """Starts the commands at once and waits for all; kills what is left after TIMEOUT_S."""
    outputs = [folder / f"printed{host}" for host in range(len(commands))]
    processes = [jobs.start_host(command, env, output) for command, output in zip(commands, outputs, strict=True)]
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while any(process.poll() is None for process in processes):
            assert time.monotonic() < deadline, "\n".join(output.read_text() for output in outputs)
            time.sleep(0.05)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    rows = {}
    for host in range(len(commands)):
        for line in (folder / f"rows{host}").read_text().splitlines():
            where, digest = json.loads(line)
            assert rows.setdefault(tuple(where), digest) == digest, f"hosts differ in {where}"
    return Job(
        codes=[process.returncode for process in processes],
        printed=[output.read_text() for output in outputs],
        rows=rows,
    )


@pytest.fixture(scope="module")
def one(run, tmp_path_factory):
    """A run of one process: its folder, and what it did."""
    workdir = tmp_path_factory.mktemp("one")
    job = run(workdir, 1)
    assert job.codes == [0], job.printed[0]
    return workdir, job


def losses(workdir: pathlib.Path) -> np.ndarray:
    """[STEPS, datasets], from TensorBoard's files: the log has three digits."""
    found = {}
    for path in sorted((workdir / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if re.fullmatch(r"train/\w+/loss", value.tag):
                    found[event.step, value.tag] = tf.make_ndarray(value.tensor)
    tags = sorted({tag for _, tag in found})
    return np.array([[found[step, tag] for tag in tags] for step in range(1, STEPS + 1)])


def parameters(workdir: pathlib.Path) -> dict:
    trained = restore.load_trained(str(workdir))
    assert trained.step == STEPS
    return trained.params


def table(printed: str) -> list[str]:
    """The rows of the accuracies, without the loss, which has digits enough to differ."""
    rows = re.findall(r"^((?:appearance|images|motion) +\d+ +\d+ .*%) +[\d.]+$", printed, re.MULTILINE)
    assert len(rows) == 3, printed
    return rows


def assert_same_run(workdir: pathlib.Path, printed: str, one) -> None:
    """It ended as that of one process did: losses, parameters, validation."""
    expected = losses(one[0])
    assert np.ptp(expected, axis=0).min() > 1e-3, "nothing was learnt, so nothing was compared"
    np.testing.assert_allclose(losses(workdir), expected, rtol=0, atol=1e-5)
    assert table(printed) == table(one[1].printed[0])
    same = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5)
    jax.tree.map(same, parameters(workdir), parameters(one[0]))
    for name in ("appearance", "images", "motion"):
        theirs, ours = (saved_predictions.load(epath.Path(folder), name) for folder in (one[0], workdir))
        assert (ours.step, ours.fingerprint) == (STEPS, theirs.fingerprint)
        jax.tree.map(same, vars(ours.predictions), vars(theirs.predictions))


def test_two_hosts_do_as_one(run, one, tmp_path):
    job = run(tmp_path, 2)
    assert job.codes == [0, 0], "\n".join(job.printed)
    assert job.rows == one[1].rows and len(job.rows) == STEPS * (16 + 16 + 64) * 6
    assert_same_run(tmp_path, job.printed[0], one)
    assert "loss" not in job.printed[1], "the second host must be silent"


def test_sigterm_on_one_host_saves_one_step_on_all_and_four_hosts_go_on(run, one, tmp_path):
    job = run(tmp_path, 2, "--config.mesh.fsdp=2", orders={1: {"sigterm_at": 2}})
    assert job.codes == [42, 42], "\n".join(job.printed)
    (step,) = jobs.saved_steps(tmp_path)
    assert 2 < step < STEPS and f"SIGTERM: step {step} is saved" in job.printed[0]
    # Two of the four hold the first half of each batch, the others the second half.
    again = run(tmp_path, 4, "--config.mesh.tensor=2")
    assert again.codes == [0] * 4, "\n".join(again.printed)
    assert job.rows | again.rows == one[1].rows
    assert min(again.rows)[0] == step
    assert_same_run(tmp_path, again.printed[0], one)


def test_sigterm_on_the_only_host_saves_its_step(run, tmp_path):
    job = run(tmp_path, 1, orders={0: {"sigterm_at": 1}})
    assert job.codes == [42], job.printed[0]
    assert jobs.saved_steps(tmp_path) == [2]
    assert "step 2 is saved" in job.printed[0] and "tracked_metric" not in job.printed[0]


def last_lines(job: Job) -> set[str]:
    return {printed.splitlines()[-1] for printed in job.printed}


def test_rows_that_are_not_finite_on_one_host_end_all_on_the_same_step(run, tmp_path):
    job = run(tmp_path, 2, orders={1: {"poison_at": 3}})
    assert job.codes == [errors.DIVERGED] * 2 and jobs.saved_steps(tmp_path) == []
    (line,) = last_lines(job)
    names = r"appearance \(examples \d+, .*\), images \(examples .*\), motion \(examples .*\)"
    assert re.match(rf".*step 4 on {names}: 1 step in a row", line)


def test_bad_data_above_the_budget_end_all_on_the_same_step(run, tmp_path):
    """Five of 48 images are damaged; each of the two hosts meets some, and says so."""
    tiny_run.prepare_data(tmp_path / "data")
    split = records.open_split("digits/images", "train", str(tmp_path / "data"))
    damaged = [3, 11, 20, 31, 46]
    tiny_run.damage(split, damaged)
    flags = [f"--config.data_dir={tmp_path / 'data'}", "--config.datasets.images.batch_size=16"]
    job = run(tmp_path / "over", 2, *flags, "--config.input.max_bad_share=0.1")
    assert job.codes == [errors.BAD_DATA] * 2
    (line,) = last_lines(job)
    assert re.match(r".*step [123] on images: 5 of its 48 training .*: 3, 11, 20, 31, 46; ", line)
    told = [set(map(int, re.findall(f"host {host}: images: example (\\d+) ", job.printed[host]))) for host in (0, 1)]
    assert all(told) and told[0] | told[1] == set(damaged), told
