"""Small JSON files are read, or refused by name; whatever is changed in them, nothing else happens."""

import io
import json

import numpy as np
import pytest
from etils import epath

from data_pipelines import files


@pytest.mark.parametrize(
    ("text", "form", "where"),
    [
        ("{", dict, "no JSON"),
        ("\xff", dict, "no JSON"),
        ("[" * 100_000, list, "no JSON"),
        ('{"a": NaN}', {"a": float}, "no JSON: NaN is no number"),
        ('{"a": 1e999}', {"a": float}, "'a' of its content is not of type float"),
        ("{}", {"a": int}, "its content has no 'a'"),
        ('{"a": true}', {"a": int}, "'a' of its content is not of type int"),
        ('{"a": [1, "x"]}', {"a": [int]}, "item 1 of 'a' of its content is not of type int"),
        ('{"s": {"train": {"n": "1"}}}', {"s": {str: {"n": int}}}, "'n' of 'train' of 's' of its content"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path, text, form, where):
    path = epath.Path(tmp_path / "small.json")
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(files.DamagedFileError) as error:
        files.read_json(path, form)
    assert str(error.value).startswith(f"{path} is damaged: ") and where in str(error.value)


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_SMALL_BYTES", 10)
    path = epath.Path(tmp_path / "small.json")
    path.write_text(json.dumps({"a": "x" * 20}))
    with pytest.raises(files.DamagedFileError, match="larger than"):
        files.read_json(path, dict)


def test_what_is_right_is_read(tmp_path):
    path = epath.Path(tmp_path / "small.json")
    path.write_text('{"a": 1, "more": [1, 2]}')
    assert files.read_json(path, {"a": float}) == {"a": 1, "more": [1, 2]}


def test_what_was_changed_after_it_was_written_is_refused(tmp_path):
    path = epath.Path(tmp_path / "small.json")
    path.write_bytes(files.sealed_json({"a": 1.5, "b": ["é"]}))
    assert files.read_json(path, {"a": float}) == {"a": 1.5, "b": ["é"]}
    path.write_text(path.read_text().replace("1.5", "2.5"))
    with pytest.raises(files.DamagedFileError, match="small.json is damaged: not what was written"):
        files.read_json(path, {"a": float})


def test_arrays_with_and_without_a_checksum_are_read_by_numpy_and_here(tmp_path):
    arrays = {"a": np.arange(3), "b": np.array("text")}
    data = files.sealed_arrays(arrays, compressed=True)
    np.savez(tmp_path / "before.npz", **arrays)
    for found in (
        np.load(io.BytesIO(data)),
        files.parse_arrays(data),
        files.parse_arrays((tmp_path / "before.npz").read_bytes()),
    ):
        assert found["a"].tolist() == [0, 1, 2] and str(found["b"]) == "text"


def test_arrays_that_are_a_pickle_or_a_bomb_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="no archive of arrays: Object arrays cannot be loaded"):
        files.parse_arrays(files.sealed_arrays({"a": np.array([{}])}))
    monkeypatch.setattr(files, "MAX_ARRAYS_BYTES", 1 << 20)
    with pytest.raises(ValueError, match="more than 1 MiB"):
        files.parse_arrays(files.sealed_arrays({"a": np.zeros(1 << 18)}, compressed=True))
