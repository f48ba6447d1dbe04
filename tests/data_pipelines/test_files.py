"""Small JSON files are read, or refused by name; whatever is changed in them, nothing else happens."""

import json

import pytest
from etils import epath

from cover_jax.fault_tolerance import workdir_lease
from data_pipelines import files

LEASE = {"run_id": "abc", "host": "h", "boot": "b", "pid": 7, "started": "2026-01-01T00:00:00+00:00", "beat": 3}


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
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 10)
    path = epath.Path(tmp_path / "small.json")
    path.write_text(json.dumps({"a": "x" * 20}))
    with pytest.raises(files.DamagedFileError, match="larger than"):
        files.read_json(path, dict)


def test_what_is_right_is_read(tmp_path):
    path = epath.Path(tmp_path / "small.json")
    path.write_text('{"a": 1, "more": [1, 2]}')
    assert files.read_json(path, {"a": float}) == {"a": 1, "more": [1, 2]}


def test_flipped_bits_of_a_lease_is_read_or_ignored(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir_lease.time, "sleep", lambda seconds: None)
    path = epath.Path(tmp_path / "lease.json")
    whole = json.dumps(LEASE).encode()
    for bit in range(0, 8 * len(whole), 5):  # every bit of a byte is met
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(damaged))
        found = workdir_lease._read(path)
        assert found is None or files.mismatch(found, workdir_lease._FORM) == ""
