"""The records of a split are known by their stored checksums; no record is read."""

import pathlib

import numpy as np
import pytest

from data_pipelines.stream import contents, records
from data_pipelines.stream.host_tf import tf


def of(*shards, split="train", **settings):
    return contents.of_records(split, [np.array(shard, np.uint32) for shard in shards], sum(map(len, shards)), settings)


@pytest.mark.parametrize(
    ("now", "what"),
    [
        (of([1, 2], [3, 4], fps=5), ""),
        (of([1, 2], [3, 4], fps=5, source="/elsewhere"), ""),
        (of([2, 1], [3, 4], fps=5), "the same records in another order"),
        (of([1, 2], [3, 5], fps=5), "records with other content in shard 1 (labels corrected, or clips encoded again)"),
        (of([1, 2], [3], fps=6), "4 records before, 3 now; fps 5 before, 6 now"),
    ],
    ids=["same", "same, from elsewhere", "order", "one record", "fewer"],
)
def test_what_differs_is_told(now, what):
    assert contents.difference(of([1, 2], [3, 4], fps=5).to_json(), now.to_json()) == what


def test_what_is_not_known_is_not_compared():
    unknown = contents.of_records("train", [np.array([1], np.uint32), None], 2, {})
    assert unknown.in_order == "" and contents.difference(of([1], [2]).to_json(), unknown.to_json()) == ""


def rewritten(shard: pathlib.Path, change) -> None:
    """Writes the records of a shard again, as `change` makes them of its list of records."""
    kept = [record.numpy() for record in tf.data.TFRecordDataset(str(shard))]
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for record in change(kept):
            writer.write(record)


def corrected(serialized: list[bytes]) -> list[bytes]:
    """The first record with another label, which has as many bytes as before."""
    example = tf.train.Example.FromString(serialized[0])
    example.features.feature["label"].int64_list.value[0] = 3
    return [example.SerializeToString(), *serialized[1:]]


@pytest.mark.parametrize(
    ("change", "what"),
    [(corrected, "other content in shard 1 "), (lambda kept: kept[::-1], "the same records in another order")],
    ids=["a label", "order"],
)
def test_other_records_of_the_same_size_are_noticed(make_numbered, change, what):
    data_dir = make_numbered(num_shards=3)
    before = records.open_split("numbered", "train", data_dir)
    shard = pathlib.Path(before.paths[1])
    index = shard.with_name(shard.name + records.INDEX_SUFFIX)
    old_index = index.read_bytes()
    rewritten(shard, change)
    index.unlink()
    after = records.open_split("numbered", "train", data_dir)
    assert what in contents.difference(before.content.to_json(), after.content.to_json())
    if what.endswith("order"):  # also where the index is that of the shard before
        index.write_bytes(old_index)
        assert records.open_split("numbered", "train", data_dir).content == after.content


def test_the_checksums_are_those_of_the_records(make_numbered):
    split = records.open_split("numbered", "train", make_numbered(num_shards=1))
    index = records.scan(split_path := records.epath.Path(split.paths[0]))
    first = next(iter(tf.data.TFRecordDataset(str(split_path)))).numpy()
    assert index.checksums[0] == records._masked_crc32c(first)


def test_an_index_of_an_earlier_version_gets_its_checksums_once(make_numbered, monkeypatch):
    data_dir = make_numbered(num_shards=1)
    before = records.open_split("numbered", "train", data_dir)
    path = pathlib.Path(before.paths[0] + records.INDEX_SUFFIX)
    new = path.read_bytes()
    np.save(path, np.load(path))
    old = path.read_bytes()
    for version in (old, old + records._checksum(old)):
        path.write_bytes(version)
        after = records.open_split("numbered", "train", data_dir)
        assert (after.content, after.fingerprint) == (before.content, before.fingerprint)
        assert path.read_bytes() == new
    read, stored_checksums = [], records._stored_checksums
    monkeypatch.setattr(
        records, "_stored_checksums", lambda p, ends: read.append(len(ends)) or stored_checksums(p, ends)
    )
    records.open_split("numbered", "train", data_dir)
    assert read == [records._COMPARED_RECORDS]  # not those of all records


def test_a_folder_that_cannot_be_written_is_read_with_one_warning(make_numbered, monkeypatch):
    data_dir = make_numbered(num_shards=3)
    before = records.open_split("numbered", "train", data_dir)
    for shard in before.paths:
        np.save(shard + records.INDEX_SUFFIX, np.load(shard + records.INDEX_SUFFIX))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    said = []
    monkeypatch.setattr(type(records.epath.Path("/")), "write_bytes", refuse)
    monkeypatch.setattr(records.logging, "log_first_n", lambda level, text, n, *args: said.append((n, text % args)))
    assert records.open_split("numbered", "train", data_dir).content == before.content
    assert {n for n, _ in said} == {1} and "cannot be stored" in said[0][1]
