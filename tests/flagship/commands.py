"""The commands of a full-size config in miniature: as a researcher starts them, and what they must print.

Every dataset has its real classes. Only the model's variant, the weights to start from, the folder of the data, the
number of steps and the batch sizes differ from the real runs.
"""

import contextlib
import json
import os
import pathlib
import re
from collections.abc import Iterator

from cover_jax import errors
from tests.flagship import miniature
from tests.helpers import jobs

BATCH = 8
STEPS = 4
# At this size the steps take more than level 0 saves in compilation. Of two flags the last one counts.
XLA_FLAGS = f"{os.environ['XLA_FLAGS']} --xla_backend_optimization_level=1"
VARIANT = "mu/112"  # 16 patches of 448 px, 4 of 224 px
OTHERS = {"ssv2": 174, "mit": 305, "imagenet": 1000}  # classes of the datasets beside Kinetics


def flags(config: str, names: tuple[str, ...], workdir: pathlib.Path, data_dir: pathlib.Path) -> list[str]:
    """The flags of a run's command: nothing but its size differs from the real run's."""
    return [
        f"--config=configs/{config}",
        f"--workdir={workdir}",
        f"--data_dir={data_dir}",
        f"--config.model.variant={VARIANT}",
        "--config.model.init_from=",
        f"--config.steps={STEPS}",
        *(f"--config.datasets.{name}.{key}={BATCH}" for name in names for key in ("batch_size", "eval_batch_size")),
    ]


@contextlib.contextmanager
def begin(arguments: list[str], folder: pathlib.Path, hosts: int = 1) -> Iterator[jobs.Job]:
    """Starts cover_jax.main on eight devices in all. Processes that still run at the end of the context are killed."""
    folder.mkdir()
    reserved, address = jobs.reserve_address()
    together = [f"--coordinator={address}", f"--num_processes={hosts}"] if hosts > 1 else []
    of_host = [[f"--process_id={host}"] if together else [] for host in range(hosts)]
    devices = {"JAX_NUM_CPU_DEVICES": str(8 // hosts), "JAX_COORDINATOR_BIND_ADDRESS": address}
    environment = os.environ | devices | {"PYTHONUNBUFFERED": "1", "XLA_FLAGS": XLA_FLAGS}
    orders = json.dumps({"compile_in_turn": True})  # with these programs that saves a minute of the second host
    job = jobs.Job([[orders, *arguments, *together, *own] for own in of_host], [environment] * hosts, folder)
    try:
        yield job
    finally:
        job.kill()
        reserved.close()


def run(arguments: list[str], folder: pathlib.Path, hosts: int = 1) -> str:
    """Runs cover_jax.main to its end; returns what the first process printed."""
    with begin(arguments, folder, hosts) as job:
        assert job.codes() == [errors.DONE] * hosts, job.all_printed()
    return job.printed()


def assert_ready(printed: str, workdir: pathlib.Path) -> None:
    """The rehearsal found nothing that would stop the run, and left nothing behind but its JSON."""
    assert printed.rstrip().splitlines()[-1] == "ready", printed
    assert not workdir.exists()
    rehearsed = json.loads(pathlib.Path(f"{workdir}.rehearsal.json").read_text())
    assert rehearsed["ready"] and not rehearsed["problems"], rehearsed
    assert sorted(path.name for path in workdir.parent.iterdir()) == [f"{workdir.name}.rehearsal.json"]


def assert_evaluated(printed: str, classes: dict[str, int]) -> None:
    for name, number in classes.items():
        assert re.search(rf"^{name} +{number} +{miniature.VALIDATION} ", printed, re.MULTILINE), printed


def rehearse_config(config: str, classes: dict[str, int], folder: pathlib.Path, data_dir: pathlib.Path) -> None:
    """On eight devices. A rehearsal goes through all that training does; not every config is put through both."""
    workdir = folder / "work" / "run"
    workdir.parent.mkdir(parents=True)
    arguments = flags(config, tuple(classes), workdir, data_dir)
    assert_ready(run([*arguments, "--mode=rehearse"], folder / "rehearsed"), workdir)


def train_config(config: str, classes: dict[str, int], folder: pathlib.Path, data_dir: pathlib.Path) -> None:
    """A few steps and an evaluation, on eight devices."""
    printed = run(flags(config, tuple(classes), folder / "run", data_dir), folder / "trained")
    assert f"step {STEPS}/{STEPS}" in printed
    assert_evaluated(printed, classes)
