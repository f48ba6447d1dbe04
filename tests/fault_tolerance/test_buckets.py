"""Data and runs in gs://, by the layers of TFDS and orbax, from a server on 127.0.0.1."""

import hashlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from cover_jax import errors
from cover_jax.checkpoint import layout
from cover_jax.errors import ConfigError
from cover_jax.models import variants
from cover_jax.models.pretrained import loader
from data_pipelines.builders import digits
from data_pipelines.prepare import __main__ as prepare
from data_pipelines.prepare import build
from data_pipelines.stream import pipeline, records
from tests.data_pipelines import publishers
from tests.data_pipelines.records_of import records_of
from tests.helpers import fake_gcs
from tests.models import small

STEPS = 2
UNAVAILABLE = 0.3  # of all requests are answered with 503; with 0.6 a run takes ten minutes: orbax's client waits
QUICK_RETRIES = {"GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "0"}  # TensorFlow's client then does not wait at all

READ = """
import json, sys
from tests.fault_tolerance import test_buckets
print(json.dumps(test_buckets.first_batches(sys.argv[1])))
"""


WEIGHTS = pathlib.Path(__file__).parents[1] / "models" / "golden" / "pretrained"
LOAD = """
import sys
from tests.fault_tolerance import test_buckets
print(test_buckets.hash_of_weights(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> pathlib.Path:
    """All of `digits`, at a twentieth of its size."""
    folder = tmp_path_factory.mktemp("digits")
    few = {config: {split: n // 20 for split, n in splits.items()} for config, splits in digits.CLIPS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "CLIPS", few)
        for config in digits.CLIPS:
            build.prepare_if_self_contained(f"digits/{config}", str(folder))
    return folder


@pytest.fixture
def storage(tmp_path):
    with fake_gcs.serve(tmp_path) as storage:
        yield storage


def first_batches(data_dir: str) -> list[str]:
    """Hashes of the first three batches of `digits/motion`."""
    from configs import common

    dataset = common.dataset()
    dataset.num_frames, dataset.canvas_px, dataset.batch_size = 4, (16, 16), 8
    split = records.open_split("digits/motion", "train", data_dir)
    with pipeline.train_stream(split, dataset, name="motion", seed=0, first_batch=0) as stream:
        return [hashlib.sha256(next(stream)["frames"].tobytes()).hexdigest() for _ in range(3)]


REHEARSE = """
import sys
from cover_jax.rehearsal import findings, trial
found = findings.Findings()
with trial.scratch_folder(sys.argv[1], found) as folder:
    print(folder)
found.agree()
print(*((problem.exit_code, problem.text) for problem in found.problems))
"""


def in_bucket(storage, *arguments: str, timeout_s: int = 500) -> str:
    """Runs Python with `arguments` where gs:// is `storage`; returns what it printed."""
    environment = os.environ | storage.environment | QUICK_RETRIES
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_prepared_dataset_is_read_from_a_bucket(storage, data_dir):
    for path in data_dir.rglob("*"):
        if path.is_file():
            storage.put("bucket", f"data/{path.relative_to(data_dir)}", path.read_bytes())
    storage.unavailable = 0.6
    printed = in_bucket(storage, "-c", READ, "gs://bucket/data")
    assert json.loads(printed.splitlines()[-1]) == first_batches(str(data_dir))


@pytest.mark.slow
def test_a_publisher_s_files_are_prepared_from_a_bucket_into_one(storage, tmp_path):
    source = publishers.moments_in_time(tmp_path / "mit")
    for path in source.rglob("*"):
        if path.is_file():
            storage.put("bucket", f"mit/{path.relative_to(source)}", path.read_bytes())
    in_bucket(
        storage, "-m", "data_pipelines.prepare", "moments_in_time", "--workers=1",
        "--manual_dir=gs://bucket/mit", "--data_dir=gs://bucket/data",
    )  # fmt: skip
    for (_, name), (data, _) in storage.objects.items():
        path = tmp_path / name
        if not name.endswith("/"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    prepare.main(["moments_in_time", f"--manual_dir={source}", f"--data_dir={tmp_path / 'disk'}", "--workers=1"])
    for split in ("train", "validation"):
        here, there = (records_of("moments_in_time", split, tmp_path / name) for name in ("disk", "data"))
        assert here.keys() == there.keys()
        for clip, record in here.items():
            assert list(record["frames"]) == list(there[clip]["frames"]), clip


def hash_of_weights(source: str) -> str:
    """Of the class names and parameters that `source` gives a model of its size."""
    variants.SIZES["golden"] = (32, 2, 4, 64)
    loaded = loader.load(source, small.config(variant="golden/4", size_px=12, num_frames=3), {})
    found = hashlib.sha256(repr(loaded.class_names).encode())
    for name, array in sorted(loaded.params.items()):
        found.update(name.encode() + array.tobytes())
    return found.hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["hf_vit", "hf_vit/model.safetensors", "timesformer.pyth"])
def test_weights_are_read_from_a_bucket(source, storage, monkeypatch):
    for path in WEIGHTS.rglob("*.*"):
        storage.put("bucket", f"weights/{path.relative_to(WEIGHTS)}", path.read_bytes())
    monkeypatch.setattr(variants, "SIZES", dict(variants.SIZES))
    printed = in_bucket(storage, "-c", LOAD, f"gs://bucket/weights/{source}")
    assert printed.split()[-1] == hash_of_weights(str(WEIGHTS / source))


def command(workdir: str, data_dir: pathlib.Path, *flags: str) -> list[str]:
    return ["-m", "cover_jax.main", "--config=configs/demo.py", f"--workdir={workdir}", f"--config.data_dir={data_dir}",
            f"--config.steps={STEPS}", "--config.checkpoint_every_steps=1", f"--config.eval_every_steps={STEPS}",
            "--config.optimizer.warmup_steps=1", "--config.compilation_cache=False", *flags]  # fmt: skip


def saved_state(workdir: pathlib.Path) -> dict:
    with ocp.CheckpointManager(workdir / "checkpoints") as manager:
        assert manager.latest_step() == STEPS
        return jax.device_get(manager.restore(STEPS, args=ocp.args.Composite(state=ocp.args.StandardRestore())).state)


@pytest.mark.slow
def test_a_run_in_a_bucket_that_often_fails_ends_as_one_on_disk(storage, data_dir, tmp_path):
    storage.unavailable = UNAVAILABLE
    in_bucket(storage, *command("gs://bucket/run", data_dir))
    assert storage.refused > storage.requests / 4
    again = in_bucket(storage, *command("gs://bucket/run", data_dir, "--mode=evaluate"))
    assert f"continuing from gs://bucket/run/checkpoints/{STEPS}" in again and "damaged" not in again
    in_bucket(storage, "-m", "cover_jax.report", "--workdir=gs://bucket/run")
    page = storage.objects["bucket", "run/report.html"][0].decode()
    assert page.count("<polyline") >= 3 and page.count("No pictures") == 0
    assert page.count("<img") == 14 + 18 + 14  # the worst and best of 15, 25 and 15
    for (_, name), (data, _) in storage.objects.items():
        path = tmp_path / "copy" / name
        if not name.endswith("/"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    in_bucket(storage, *command(str(tmp_path / "disk"), data_dir))
    jax.tree.map(np.testing.assert_array_equal, saved_state(tmp_path / "copy" / "run"), saved_state(tmp_path / "disk"))


def tiny(workdir: str, data_dir: pathlib.Path, *flags: str) -> list[str]:
    return ["-m", "cover_jax.main", "--config=tests/helpers/tiny_config.py", f"--workdir={workdir}",
            f"--config.data_dir={data_dir}", "--config.compilation_cache=False", *flags]  # fmt: skip


@pytest.mark.slow
def test_a_run_begins_from_one_in_a_bucket_and_says_what_a_file_there_shows(storage, data_dir):
    in_bucket(storage, *tiny("gs://bucket/first", data_dir, "--config.steps=2"))
    begin = ("--config.steps=2", "--config.model.init_from=gs://bucket/first@best")
    started = in_bucket(storage, *tiny("gs://bucket/run", data_dir, *begin))
    assert "initialised from gs://bucket/first@best: a run of this project, step 2" in started
    picture = io.BytesIO()
    Image.new("RGB", (16, 16), "gray").save(picture, "PNG")
    storage.put("bucket", "pictures/gray.png", picture.getvalue())
    ask = ("--checkpoint=gs://bucket/run", "--format=csv", "gs://bucket/pictures/gray.png")
    asked = in_bucket(storage, "-m", "cover_jax.predict", *ask)
    assert "gs://bucket/pictures/gray.png" in asked.splitlines()[1]


@pytest.mark.slow
def test_a_bucket_that_never_answers_is_an_error_that_says_so(storage, data_dir):
    storage.unavailable = 1.0
    environment, run = os.environ | storage.environment | QUICK_RETRIES, tiny("gs://bucket/run", data_dir)
    done = subprocess.run([sys.executable, *run], env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == errors.FAILED
    assert re.search("^error: .*(503|UNAVAILABLE|Unavailable)", done.stderr.splitlines()[-1]), done.stderr


def test_a_bucket_stays_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(layout.checkpoints_folder("gs://bucket/run")) == "gs://bucket/run/checkpoints"
    assert str(layout.checkpoints_folder("run")) == str(tmp_path / "run" / "checkpoints")


def test_without_google_s_client_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(layout.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"gs://bucket/run: .*pip install -e '.\[gcs\]'"):
        layout.checkpoints_folder("gs://bucket/run")


@pytest.mark.slow
def test_a_rehearsal_names_a_bucket_that_cannot_be_written(storage):
    storage.read_only = True
    printed = in_bucket(storage, "-c", REHEARSE, "gs://bucket/run")
    assert printed.startswith("None\n"), printed
    assert f"({errors.CONFIG}, '--workdir=gs://bucket/run: gs://bucket/run.rehearsal beside it cannot be" in printed
