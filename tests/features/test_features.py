"""Features of files and prepared clips, with the run of version 0.1.0: what its heads read; killed and continued."""

import contextlib
import copy
import json
import os
import pathlib
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from cover_jax.checkpoint import restore
from cover_jax.features import __main__ as command
from cover_jax.features import extract, parts
from cover_jax.models import variants
from cover_jax.published import load as published_load
from data_pipelines.command_line import UsageError
from tests.test_golden_run import EXPECTED, GOLDEN, SHORT_SIDE_PX, SIZE

PATHS = list(EXPECTED["predict"])


@pytest.fixture(scope="module", autouse=True)
def golden(tmp_path_factory):
    """A copy of the run as working directory; the programs are compiled once for all tests."""
    folder = tmp_path_factory.mktemp("features") / "golden"
    shutil.copytree(GOLDEN, folder)
    made = {}
    original = extract.Extractor.__init__

    def once(self, trained, dataset, view, pool, batch_size):
        key = view, pool, batch_size
        if key not in made:
            original(self, trained, dataset, view, pool, batch_size)
            made[key] = vars(self).copy()
        vars(self).update(made[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(variants.SIZES, *SIZE)
        patch.setattr(extract.Extractor, "__init__", once)
        patch.chdir(folder)
        yield folder


def run(out, *arguments):
    storage = f"--short_side_px={SHORT_SIDE_PX}"  # which checkpoints of that version do not say
    command.main(["--workdir=run", f"--out={out}", "--batch_size=8", storage, *arguments])
    return pathlib.Path(out)


def load(out):
    with np.load(out) as found:
        return dict(found)


@pytest.fixture(scope="module")
def files_head():
    trained = restore.load_trained("run")
    return trained.params["heads"]["files"]


def test_a_linear_head_on_them_predicts_what_predict_said(files_head, capsys):
    found = load(run("files.npz", "--head=files", *PATHS))
    assert found["path"].tolist() == PATHS and set(found["label"]) == {-1}
    scores = found["features"] @ files_head["kernel"] + files_head["bias"]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    expected = [EXPECTED["predict"][path]["files"] for path in PATHS]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-3)
    assert json.loads(str(found["about"]))["pool"] == "cls"
    assert f"{len(PATHS)} rows, features {len(PATHS)} x 8" in capsys.readouterr().out


def test_prepared_clips_have_label_path_and_time_and_parquet_says_the_same():
    arguments = ("--dataset=files", "--split=validation", "--data_dir=data")
    found, table = load(run("records.npz", *arguments)), pq.read_table(run("records.parquet", *arguments))
    names = EXPECTED["splits"]["files"]["validation"]["class_names"]
    assert found["class_name"].tolist() == [names[label] for label in found["label"]] and len(set(found["label"])) > 1
    assert found["class_name"].tolist() == [pathlib.Path(path).parent.name for path in found["path"]]
    assert all(0 <= start < end for start, end in zip(found["start_s"], found["end_s"], strict=True))
    for name in parts.COLUMNS[:-1]:
        assert table[name].to_pylist() == found[name].tolist(), name
    np.testing.assert_array_equal(np.array(table["features"].to_pylist(), np.float32), found["features"])
    assert json.loads(table.schema.metadata[b"about"]) == json.loads(str(found["about"]))


def test_patches_are_another_pool():
    arguments = ("--dataset=files", "--data_dir=data")
    cls, patches = (load(run(f"{pool}.npz", f"--pool={pool}", *arguments)) for pool in ("cls", "patches"))
    assert cls["features"].shape == patches["features"].shape
    assert np.abs(cls["features"] - patches["features"]).max() > 0.01


def test_tokens_are_those_that_patches_are_the_mean_of(tmp_path):
    arguments = ("--dataset=files", "--data_dir=data")
    patches, tokens = (load(run(f"{pool}.npz", f"--pool={pool}", *arguments)) for pool in ("patches", "tokens"))
    assert tokens["features"].shape == (len(patches["path"]), 2, 4, 8) and tokens["features"].dtype == np.float32
    np.testing.assert_allclose(tokens["features"].mean((1, 2)), patches["features"], atol=1e-5)
    with pytest.raises(SystemExit, match="--pool=tokens: a table has one row of numbers per clip; write .npz"):
        run(tmp_path / "tokens.parquet", "--pool=tokens", *arguments)
    with pytest.raises(SystemExit, match="pool='tokens': needs one view per clip; here are 2 x 1"):
        run(tmp_path / "tokens.npz", "--pool=tokens", "--eval_clips=2", *arguments)


@pytest.fixture
def one_batch_per_part(monkeypatch):
    monkeypatch.setattr(parts, "BATCHES_PER_PART", 0.5)  # of the batch of 8: 4 clips


class Killed(BaseException):
    pass


def test_a_killed_command_continues_and_computes_nothing_twice(one_batch_per_part, monkeypatch):
    arguments = ("--dataset=files", "--split=train", "--data_dir=data")
    whole = load(run("whole.npz", *arguments))
    computed, compute = [], extract.Extractor.__call__

    def counted(self, frames):
        if len(computed) == 1:
            computed.append("killed")
            raise Killed
        computed.append(len(frames))
        return compute(self, frames)

    monkeypatch.setattr(extract.Extractor, "__call__", counted)
    with contextlib.suppress(Killed):
        run("killed.npz", *arguments)
    assert not pathlib.Path("killed.npz").exists() and pathlib.Path("killed.npz.parts").exists()
    found = load(run("killed.npz", *arguments))
    assert [one for one in computed if one != "killed"] == [4, len(whole["path"]) - 4]
    assert {name: array.tobytes() for name, array in found.items()} == {n: a.tobytes() for n, a in whole.items()}
    assert not pathlib.Path("killed.npz.parts").exists()


def test_several_processes_share_the_parts(one_batch_per_part, capsys):
    arguments = ("--dataset=files", "--split=train", "--data_dir=data")
    whole = load(run("one.npz", *arguments))
    run("two.npz", "--num_processes=2", "--process_id=1", *arguments)
    assert "1 of 2 parts are written; the host that is last writes two.npz" in capsys.readouterr().out
    found = load(run("two.npz", "--num_processes=2", "--process_id=0", *arguments))
    assert {name: array.tobytes() for name, array in found.items()} == {n: a.tobytes() for n, a in whole.items()}


def test_what_cannot_be_read_is_named_and_left_out(tmp_path, capsys):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    good = PATHS[0]
    for _ in range(2):  # the second time the file is complete already
        with pytest.raises(SystemExit, match="1 of 2 files could not be read"):
            run("some.npz", "--head=files", good, str(broken))
        assert f"{broken}: " in capsys.readouterr().err and load("some.npz")["path"].tolist() == [good]


def test_a_file_that_is_replaced_between_a_kill_and_a_resume_is_noticed(one_batch_per_part, tmp_path, monkeypatch):
    paths = [shutil.copyfile(path, tmp_path / f"{i}-{pathlib.Path(path).name}") for i, path in enumerate(PATHS)]
    command, write = ("--head=files", *map(str, paths)), parts.Job.write

    def killed(self, part, rows):
        write(self, part, rows)
        raise Killed

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(parts.Job, "write", killed)
        run("replaced.npz", *command)
    before = paths[0].read_bytes()
    for changed in (before[:-1] + bytes([before[-1] ^ 1]), before + b"0", None):
        paths[0].write_bytes(changed) if changed else paths[0].unlink()
        with pytest.raises(
            SystemExit, match=rf"replaced.npz.parts: .* other content: {paths[0]} changed since; delete"
        ):
            run("replaced.npz", *command)
    paths[0].write_bytes(before)  # at another time: copies on several hosts are the same file
    os.utime(paths[0], (0, 0))
    run("replaced.npz", *command)
    paths[1].write_bytes(before)
    with pytest.raises(SystemExit, match="replaced.npz: exists, of other content: some of what is read has changed"):
        run("replaced.npz", *command)


def test_features_of_a_version_that_did_not_know_the_content_are_kept():
    job = parts.Job("old.npz", "npz", {"pool": "cls"}, {}, 0, 4)
    pathlib.Path("old.npz").write_bytes(parts._npz({}, {"about": {"pool": "cls"}, "left_out": []}))
    assert job.is_done()
    with pytest.raises(UsageError, match="pool 'cls' there, 'patches' here"):
        parts.Job("old.npz", "npz", {"pool": "patches"}, {"a.mp4": "1"}, 0, 4)


def test_parquet_without_a_readable_file_has_no_rows(tmp_path, capsys):
    for _ in range(2):
        with pytest.raises(SystemExit, match="1 of 1 files could not be read"):
            run("none.parquet", "--head=files", str(tmp_path / "none.mp4"))
        assert f"{tmp_path / 'none.mp4'}: " in capsys.readouterr().err
    assert pq.read_table("none.parquet").num_rows == 0


def test_names_of_any_bytes_are_read_and_escaped(tmp_path):
    odd = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    shutil.copyfile(PATHS[0], odd)
    run("odd.parquet", "--head=files", str(odd))
    assert pq.read_table("odd.parquet")["path"].to_pylist() == [f"{tmp_path}/caf\\xe9.mp4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out=x.txt", "a.mp4"], "must end in .npz or .parquet"),
        (["--out=x.npz"], "give files and folders, or --dataset"),
        (["--out=x.npz", "--dataset=files", "a.mp4"], "give files and folders, or --dataset"),
        (["--out=x.npz", "--process_id=1", "a.mp4"], "--process_id=1: must be from 0"),
        (["--out=x.npz", "--batch_size=0", "a.mp4"], "--batch_size=0: must be positive"),
        (["--out=x.npz", "--data_dir=data", "--head=files", "--dataset=none/none"], "none/none"),
        (["--out=x.npz", PATHS[0]], "name one of them by --head"),
        (["--out=x.npz", "--head=clip", PATHS[0]], "--head=clip: must be one of clips, files, stills"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(SystemExit, match=message) as ended:
        command.main(["--workdir=run", *arguments])
    assert ended.value.code == 43


def test_hosts_that_jax_finds_wait_for_each_other_at_the_end(monkeypatch):
    given = {}

    def initialize(*by_hand, **timeouts):
        given.update(timeouts)
        raise ValueError("no cluster")

    monkeypatch.setattr("jax.distributed.initialize", initialize)
    with pytest.raises(SystemExit, match="--distributed: JAX finds no other hosts") as ended:
        run("hosts.npz", "--distributed", "--head=files", PATHS[0])
    assert ended.value.code == 43 and given["shutdown_timeout_seconds"] > 24 * 3600


def test_a_file_of_other_features_is_not_replaced():
    run("first.npz", "--dataset=files", "--data_dir=data")
    before = pathlib.Path("first.npz").read_bytes()
    pathlib.Path("first.npz.parts").mkdir()  # as if killed just before its end
    run("first.npz", "--dataset=files", "--data_dir=data")  # complete already
    assert not pathlib.Path("first.npz.parts").exists()
    with pytest.raises(SystemExit, match="first.npz: exists, pool 'cls' there, 'patches' here; move it"):
        run("first.npz", "--dataset=files", "--data_dir=data", "--pool=patches")
    assert pathlib.Path("first.npz").read_bytes() == before


OTHER_MODELS = {
    "weights": lambda trained: trained.params["backbone"]["cls_token"].__setitem__(..., 1.0),
    "settings": lambda trained: trained.config.model.update(pixel_mean=(0.1, 0.2, 0.3)),
}


@pytest.mark.parametrize("what", OTHER_MODELS)
def test_another_model_at_the_same_path_and_step_is_another(what, monkeypatch):
    """Such as a run that was deleted and trained anew in the same folder."""
    arguments = ("--dataset=files", "--data_dir=data")
    run(f"{what}.npz", *arguments)
    before, load_model = pathlib.Path(f"{what}.npz").read_bytes(), published_load.load

    def load_other(*given, **options):
        trained = copy.deepcopy(load_model(*given, **options))
        OTHER_MODELS[what](trained)
        return trained

    monkeypatch.setattr(published_load, "load", load_other)
    with pytest.raises(SystemExit, match=f"{what}.npz: exists, {what} .* there, .* here; move it"):
        run(f"{what}.npz", *arguments)
    assert pathlib.Path(f"{what}.npz").read_bytes() == before
