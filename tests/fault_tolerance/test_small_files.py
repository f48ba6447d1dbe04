"""Every small file of a run and of a dataset, damaged in every bit: made anew, left out, or refused by name."""

import ast
import dataclasses
import json
import pathlib
import shutil
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from etils import epath

from cover_jax import errors
from cover_jax.checkpoint import integrity
from cover_jax.evaluation import saved_predictions
from cover_jax.fault_tolerance import workdir_lease
from cover_jax.models.pretrained import sources
from cover_jax.models.pretrained.errors import PretrainedError
from cover_jax.plan import tables
from cover_jax.study import results
from cover_jax.tasks.multiclass import Multiclass
from cover_jax.training import progress
from data_pipelines import catalog, files
from data_pipelines.doctor import manifest
from data_pipelines.leaks import facts, kept
from data_pipelines.media.media_file import Media
from data_pipelines.prepare import base, on_beam, worker_pool
from data_pipelines.stream import records

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/run/data/video_folder/clips/1.0.0"
ANEW = "what takes the place of a damaged file"


@dataclasses.dataclass(frozen=True)
class Case:
    """A small file, and who reads it.

    Attributes:
        path: the file, whole.
        read: its reader, without arguments; returns ANEW, or a value that `same` compares.
        refused: the error of a damaged file; None if it is made anew or left out.
        sealed: it has a checksum.
    """

    path: pathlib.Path
    read: Callable[[], Any]
    refused: type[Exception] | None = None
    sealed: bool = True


def lease(tmp_path, monkeypatch) -> Case:
    monkeypatch.setattr(workdir_lease.time, "sleep", lambda seconds: None)
    held = workdir_lease._Lease(epath.Path(tmp_path))
    held._write(beat=3)
    return Case(tmp_path / "lease.json", lambda: workdir_lease._read(epath.Path(tmp_path / "lease.json")) or ANEW)


def first_start(tmp_path, monkeypatch) -> Case:
    progress.first_start_s(epath.Path(tmp_path))
    monkeypatch.setattr(progress.files, "write_whole", lambda path, data: None)
    monkeypatch.setattr(progress, "print_on_host0", lambda line: None)
    monkeypatch.setattr(progress.time, "time", lambda: -1.0)

    def read():
        found = progress.first_start_s(epath.Path(tmp_path))
        return ANEW if found == -1 else found

    return Case(tmp_path / "first_start.json", read)


def doctors_manifest(tmp_path, monkeypatch) -> Case:
    written = {"splits": {"train": dict.fromkeys(manifest.COUNTS, 7)}, "origin": {"fps": 1.5}}
    (tmp_path / manifest.FILE).write_bytes(files.sealed_json(written))
    monkeypatch.setattr(catalog, "dataset_dir", lambda builder, data_dir: epath.Path(tmp_path))
    monkeypatch.setattr(catalog, "read_info", lambda where: types.SimpleNamespace(splits={}))
    monkeypatch.setattr(manifest, "print", lambda *args, **options: None, raising=False)
    return Case(tmp_path / manifest.FILE, lambda: manifest.summary("clips", "") or ANEW)


def study_results(tmp_path, monkeypatch) -> Case:
    found = {
        "setting": "alone", "seed": 1, "draw": 0, "top1": {"a": 0.5}, "hits": {"a": "01"}, "validated_on": {"a": "f"},
        "curves": {"a": [[1, 0.5]]}, "seconds": 1.5, "versions": {}, "config": {},
    }  # fmt: skip
    (tmp_path / results.FILE).write_bytes(files.sealed_json(found))
    monkeypatch.setattr(results, "_check_config", lambda *arguments: None)
    run = types.SimpleNamespace(folder=tmp_path)
    return Case(tmp_path / results.FILE, lambda: results.load(run), errors.DamagedStateError)


def plans(tmp_path, monkeypatch) -> Case:
    row = {"made": "2026-01-01", "versions": {"jax": "0.10"}, "cells": [["a", "b"]], "plan": None}
    (tmp_path / "tables.json").write_text(json.dumps({"row": row}))
    return Case(tmp_path / "tables.json", lambda: tables.load(tmp_path / "tables.json"), files.DamagedFileError, False)


def _checkpoint(tmp_path, part: str) -> Case:
    meta = {"heads": {"a": ["x", "y"]}, "data": {}, "config": {"datasets": {"a": {}}}, "fingerprints": {"step": "1"}}
    accuracies = {"a/top1": 0.25, "mean_top1": float("nan")}
    for name, content in (("meta/metadata", integrity.seal(meta, accuracies)), ("metrics/metrics", accuracies)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(json.dumps(content))

    def read():
        meta, problems = integrity.read_meta(epath.Path(tmp_path))
        return ANEW if problems else json.dumps(meta, sort_keys=True)  # set aside

    return Case(tmp_path / part, read)


def checkpoint_meta(tmp_path, monkeypatch) -> Case:
    return _checkpoint(tmp_path, "meta/metadata")


def checkpoint_accuracies(tmp_path, monkeypatch) -> Case:
    return _checkpoint(tmp_path, "metrics/metrics")


def predictions(tmp_path, monkeypatch) -> Case:
    columns = {key: np.arange(3).astype(dtype) for key, dtype in Multiclass.stored.items()}
    saved = saved_predictions.SavedPredictions(Multiclass.predictions(**columns), 40, "fingerprint")
    saved_predictions.save(epath.Path(tmp_path), "a", saved)

    def read():
        found = saved_predictions.load(epath.Path(tmp_path), "a")
        return found.step, found.fingerprint, {key: getattr(found.predictions, key) for key in columns}

    return Case(tmp_path / "predictions" / "a.npz", read, errors.DamagedStateError)


def _shard(tmp_path) -> pathlib.Path:
    shard = tmp_path / "shard"
    shutil.copy(GOLDEN / "video_folder-validation.tfrecord-00000-of-00001", shard)
    return shard


def measured_facts(tmp_path, monkeypatch) -> Case:
    shard = _shard(tmp_path)
    columns = {name: np.zeros(2, "S3" if dtype == "S" else dtype) for name, dtype in facts.COLUMNS.items()}
    facts._save(str(shard), columns | {"hashes": np.ones((2, 3), np.uint64)})

    def read():
        found = facts._load(str(shard))
        return ANEW if found is None else found

    return Case(tmp_path / facts.FOLDER / "shard.npz", read)


def leaks(tmp_path, monkeypatch) -> Case:
    split = types.SimpleNamespace(fingerprint="f", paths=[str(tmp_path / "shard")])
    pair = kept.SplitPair("a", "b", split, split)
    pairs = {kind: np.array([[1, 2]]) for kind in kept.KINDS}
    kept.save(pair, kept.Leaks("a", "b", pairs, 0, ""))

    def read():
        found = kept._load(pair)
        return ANEW if found is None else found.to_json()

    return Case(pathlib.Path(pair.path), read)


def offset_index(tmp_path, monkeypatch) -> Case:
    shard = epath.Path(_shard(tmp_path))
    index = tmp_path / ("shard" + records.INDEX_SUFFIX)
    records._save_index(shard, records.scan(shard))

    def read():
        found = records._stored_index(epath.Path(index), shard.stat().length)
        return ANEW if found is None else (found.offsets, found.checksums)

    return Case(index, read)


def _description(tmp_path, monkeypatch, name: str) -> Case:
    for part in {"metadata.json", name} - {catalog.INFO_CHECKSUMS}:
        (tmp_path / part).write_text(f"of {part}\n")
    where, told = epath.Path(tmp_path), []
    catalog.write_info_checksums(where)
    monkeypatch.setattr(catalog, "print", lambda line, **options: told.append(line), raising=False)

    def read():
        told.clear()
        catalog._check_info(where)
        return ANEW if told else None

    return Case(tmp_path / name, read, files.DamagedFileError)


def dataset_info(tmp_path, monkeypatch) -> Case:
    return _description(tmp_path, monkeypatch, "dataset_info.json")


def class_names(tmp_path, monkeypatch) -> Case:
    return _description(tmp_path, monkeypatch, "label.labels.txt")


def refused_files(tmp_path, monkeypatch) -> Case:
    return _description(tmp_path, monkeypatch, "refused.csv")


def info_checksums(tmp_path, monkeypatch) -> Case:
    return dataclasses.replace(_description(tmp_path, monkeypatch, catalog.INFO_CHECKSUMS), refused=None)


def refused_files_of_before(tmp_path, monkeypatch) -> Case:
    shutil.copy(GOLDEN / "refused.csv", tmp_path / "refused.csv")
    return Case(
        tmp_path / "refused.csv", lambda: dict(base.read_refused(epath.Path(tmp_path))), files.DamagedFileError, False
    )


def refused_on_beam(tmp_path, monkeypatch) -> Case:
    path = epath.Path(tmp_path / "train.refused.csv")
    path.write_text(json.dumps([["train", "a.mp4", "missing", "x"]]))
    return Case(pathlib.Path(path), lambda: on_beam.read_refused(path), files.DamagedFileError, False)


def chunk(tmp_path, monkeypatch) -> Case:
    outcomes = [
        Media(frames=(b"jpeg", b"j2"), fps=1.0, num_source_frames=2, sha256="s", form="frames"),
        "ValueError: x",
    ]
    (tmp_path / "a.chunk").write_bytes(worker_pool._pack(outcomes))

    def read():
        found = worker_pool._load(epath.Path(tmp_path / "a.chunk"))
        return ANEW if found is None else found

    return Case(tmp_path / "a.chunk", read)


def config_of_weights(tmp_path, monkeypatch) -> Case:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"image_size": 224, "id2label": {"0": "a"}}))
    parse = sources.weight_files.parse_json
    return Case(path, lambda: parse(sources._small(epath.Path(path)), "config.json"), PretrainedError, False)


CASES = [
    lease, first_start, doctors_manifest, study_results, plans, checkpoint_meta, checkpoint_accuracies, leaks,
    dataset_info, class_names, refused_files, info_checksums, refused_on_beam, config_of_weights,
]  # fmt: skip
LONGER = [
    chunk,
    predictions,
    measured_facts,
    offset_index,
    refused_files_of_before,
]  # long, or slow to read
PARAMS = [*CASES, *(pytest.param(make, marks=pytest.mark.slow) for make in LONGER)]


@pytest.fixture(params=PARAMS, ids=lambda make: make.__name__)
def case(request, tmp_path, monkeypatch) -> Case:
    return request.param(tmp_path, monkeypatch)


def same(found, expected) -> bool:
    if isinstance(expected, dict):  # a name of a checksum that is no longer one is a key that nobody reads
        found = {key: found.get(key) for key in expected}
    try:
        np.testing.assert_equal(found, expected)
    except AssertionError:
        return False
    return True


def reads(case: Case, whole) -> bool:
    """Whether a file is read as it was. Otherwise it must be made anew, or be refused by its error in one line."""
    try:
        found = case.read()
    except Exception as error:
        assert case.refused and isinstance(error, case.refused), repr(error)
        assert "\n" not in str(error)
        return False
    if found is ANEW:
        assert case.refused is None
        return False
    assert same(found, whole) or not case.sealed, "another value is read, in silence"
    return True


def test_it_is_read(case):
    assert case.read() is not ANEW


def test_every_flipped_bit_is_noticed_or_changes_nothing(case, monkeypatch):
    data, whole, read_small = case.path.read_bytes(), case.read(), files.read_small
    current = [data]

    def read_damaged(path, *limit):
        return current[0] if pathlib.Path(path) == case.path else read_small(path, *limit)

    around = case.path.suffix == ".chunk" or case.path.name == "config.json"  # they do not use `read_small`
    monkeypatch.setattr(files, "read_small", read_damaged)
    noticed = 0
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        current[0] = bytes(damaged)
        if around:
            case.path.write_bytes(damaged)
        noticed += not reads(case, whole)
    # What is not noticed changes nothing: blanks between values, times in an archive, the name of the checksum itself.
    assert noticed > (0.7 if case.sealed else 0.1) * 8 * len(data)


@pytest.mark.parametrize("content", [b"", b"{}", b"null", b"[]", b"7", b"nonsense", b"\xff\xfe", b"[" * 100_000])
def test_other_content_is_made_anew_or_refused(case, content):
    case.path.write_bytes(content)
    if case.path.name not in ("tables.json", "config.json", "train.refused.csv", "refused.csv"):
        assert not reads(case, "whole")
    else:  # {} or [] is a right one of another content
        reads(case, "whole")


def test_cut_or_as_large_as_a_disk_it_is_made_anew_or_refused(case):
    data, whole = case.path.read_bytes(), case.read()
    for size in {*range(0, len(data), max(1, len(data) // 60)), len(data) - 1}:
        case.path.write_bytes(data[:size])
        reads(case, whole)
    with open(case.path, "r+b") as file:
        file.truncate(1 << 30)  # sparse
    assert not reads(case, whole)


# Modules that parse JSON and also read files, but not one by the other: messages between processes, chunks of their own
# form, users' own files with errors that name the line.
_READ_AND_PARSE = {
    "cover_jax/fault_tolerance/workdir_lease.py", "cover_jax/features/parts.py",
    "cover_jax/models/pretrained/weight_files.py",
    "cover_jax/study/results.py", "data_pipelines/prepare/worker_pool.py",
    "data_pipelines/sources/class_names.py", "data_pipelines/sources/tables.py", "data_pipelines/stream/records.py",
}  # fmt: skip
_PARSERS = {"json.load", "json.loads", "np.load", "numpy.load"}
_READS = {"read_text", "read_bytes", "read"}


def _calls(tree: ast.AST) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def test_no_module_reads_json_or_arrays_around_the_guarded_reader():
    found = set()
    for path in sorted(path for package in ("cover_jax", "data_pipelines") for path in (ROOT / package).rglob("*.py")):
        name, calls = path.relative_to(ROOT).as_posix(), _calls(ast.parse(path.read_text()))
        reads = {called.rpartition(".")[2] for called in calls} & _READS
        if name != "data_pipelines/files.py" and calls & _PARSERS and reads:
            found.add(name)
    assert found - _READ_AND_PARSE == set(), "read them by data_pipelines/files.py"
    assert found == _READ_AND_PARSE, "these do not need to be listed any more"


def test_the_page_lists_every_small_file():
    page = (
        (ROOT / "cover_jax/fault_tolerance/README.md").read_text().partition("## Small files")[2].partition("\n## ")[0]
    )
    names = {
        "lease.json", "first_start.json", "manifest.json", "results.json", "tables.json", "meta", "metrics",
        "predictions/DATASET.npz", "facts/SHARD.npz", "facts/leaks-*.json", "SHARD.index.npy", "dataset_info.json",
        "features.json", "metadata.json", "FEATURE.labels.txt", "refused.csv", "info_checksums.json", "*.chunk",
        "config.json",
    }  # fmt: skip
    assert not [name for name in names if f"`{name}`" not in page]
