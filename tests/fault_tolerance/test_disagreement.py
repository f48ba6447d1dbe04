"""Hosts that are started with something different end within seconds, and all name it. Real processes on 127.0.0.1."""

import os
import pathlib
import shutil

import pytest
import tensorflow as tf

from cover_jax import errors
from data_pipelines.stream import records
from tests.helpers import jobs

pytestmark = pytest.mark.slow

END_S = 60  # two processes that start on a busy machine; alone it takes 6 to 10 s


@pytest.fixture(scope="module")
def all_jobs(tmp_path_factory):
    return jobs.Jobs(tmp_path_factory.mktemp("jobs"))


def reversed_data(data_dir: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """A copy of the data in which the records of one shard are in the opposite order."""
    shutil.copytree(data_dir, folder)
    shard = next(path for path in folder.rglob("*-train.tfrecord*") if path.suffix != ".npy")
    kept = [record.numpy() for record in tf.data.TFRecordDataset(str(shard))]
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for record in kept[::-1]:
            writer.write(record)
    os.unlink(f"{shard}{records.INDEX_SUFFIX}")
    return folder


def renamed_class(data_dir: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """A copy of the data in which one class was given another name on purpose."""
    shutil.copytree(data_dir, folder)
    names = next(folder.rglob("label.labels.txt"))
    (names.parent / "info_checksums.json").unlink()  # otherwise it is damage
    names.write_text("zero, as others call it\n" + names.read_text().partition("\n")[2])
    return folder


CASES = {
    "learning rate": "config.optimizer.learning_rate: 0.0012 on host 0, 0.5 on host 1",
    "data": "order of records in the training data of images: ",
    "class names": 'class names in the training data of images: ["0", ',
    "workdir": "host 1 does not see what host 0 wrote there; must be one folder",
    "devices": "number of devices: 1 on host 0, 3 on host 1",
    "invalid": "config.optimizer.learning_rate=-1",
}


@pytest.mark.parametrize("case", CASES)
def test_what_differs_is_named_on_all_hosts(all_jobs, tmp_path, case):
    flags, env = [], {}
    if case == "learning rate":
        flags = ["--config.optimizer.learning_rate=0.5"]
    elif case == "invalid":
        flags = ["--config.optimizer.learning_rate=-1"]
    elif case == "data":
        flags = [f"--config.data_dir={reversed_data(all_jobs.data_dir, tmp_path / 'data')}"]
    elif case == "class names":
        flags = [f"--config.data_dir={renamed_class(all_jobs.data_dir, tmp_path / 'data')}"]
    elif case == "workdir":
        flags = [f"--workdir={tmp_path / 'other'}"]
    else:
        env = {"JAX_NUM_CPU_DEVICES": "3"}
    with all_jobs.start(tmp_path / "run", hosts=2, flags_of={1: flags}, env_of={1: env}) as job:
        assert job.codes(within_s=END_S) == [errors.CONFIG] * 2, job.all_printed()
        for host in range(2):
            assert CASES[case] in job.last_line(host), job.all_printed()
    assert "compiling" not in job.all_printed() and not jobs.saved_steps(tmp_path / "run")
