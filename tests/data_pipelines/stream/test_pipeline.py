import collections
import pathlib
import re
import time

import numpy as np
import pytest
from etils import epath

from data_pipelines.stream import decode, examples, mixture, pipeline, records
from data_pipelines.stream.host_tf import tf
from tests.data_pipelines.conftest import NUM_RECORDS


def _new(split, dataset, first_batch=0, **host):
    options = pipeline.ReadOptions(threads=2, prefetch_batches=1, **host)
    return pipeline.train_stream(split, dataset, name="numbered", seed=0, first_batch=first_batch, options=options)


_streams = {}


def _train(split, dataset, first_batch=0, **host):
    """As `_new`; a stream that an earlier test had is started again there, which takes a fifth of the CPU time."""
    key = (id(split), repr(dataset), pipeline.CHUNK_BYTES, decode.decode_frames, repr(host))
    if key not in _streams:
        _streams[key] = split, _new(split, dataset, **host)  # the split stays, so no other one has its id
    _streams[key][1].restart(first_batch)
    return _streams[key][1]


def _take(stream, count):
    with stream:
        return [next(stream) for _ in range(count)]


def _assert_equal(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def _stored(batch):
    """The record and the stored frames that each example's pixels came from: [B, T]."""
    return np.round((batch["frames"][:, :, 2, 2, 0].astype(int) - 2 * batch["record"][:, None]) / 5).astype(int)


@pytest.fixture(scope="module")
def record_of(numbered):
    """Index in the split -> number of the record, which TFDS shuffled."""
    examples = tf.data.TFRecordDataset(list(numbered.paths))
    parsed = examples.map(
        lambda record: tf.io.parse_single_example(record, {"source": tf.io.FixedLenFeature((), tf.string)})
    )
    return np.array([int(example["source"].numpy()) for example in parsed])


def test_a_batch_has_the_shapes_and_types_that_all_agree_on(numbered, dataset):
    (batch,) = _take(_train(numbered, dataset), 1)
    assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
        "frames": ((8, 4, 8, 12, 3), "uint8"),
        "size_px": ((8, 2), "int32"),
        "label": ((8,), "int32"),
        "weight": ((8,), "float32"),
        "index": ((8,), "int64"),
        "seed": ((8,), "uint32"),
    }
    assert batch["size_px"].tolist() == [[6, 10]] * 8
    assert batch["weight"].tolist() == [1] * 8
    assert len(set(batch["seed"])) == 8


def test_pixels_labels_and_sampled_frames_belong_together(numbered, dataset, record_of):
    for batch in _take(_train(numbered, dataset), 5):
        batch["record"] = record_of[batch["index"]]
        np.testing.assert_array_equal(batch["label"], batch["record"] % 5)
        np.testing.assert_array_equal(_stored(batch) // 3, np.tile(np.arange(4), (8, 1)))  # one of each 3 stored frames


def test_pictures_stand_in_the_corner_of_the_canvas_and_zeros_around_them(numbered, dataset):
    (batch,) = _take(_train(numbered, dataset, first_batch=3), 1)
    assert batch["frames"][:, :, :6, :10].min() > 0
    assert not batch["frames"][:, :, 6:].any() and not batch["frames"][:, :, :, 10:].any()


@pytest.mark.parametrize("chunk_bytes", [1, 5000, 10**9])  # 1, 4 and all 8 examples
def test_batches_are_the_same_whatever_is_read_in_one_go(numbered, dataset, monkeypatch, chunk_bytes):
    before = _take(_train(numbered, dataset, first_batch=9), 3)
    monkeypatch.setattr(pipeline, "CHUNK_BYTES", chunk_bytes)
    for was, now in zip(before, _take(_train(numbered, dataset, first_batch=9), 3), strict=True):
        _assert_equal(was, now)


def test_dense_sampling_uses_the_stored_rate(numbered, dataset, record_of):
    dataset.sample_fps = 3.0  # of 6: every second stored frame
    for batch in _take(_train(numbered, dataset), 5):
        batch["record"] = record_of[batch["index"]]
        assert (np.diff(_stored(batch)) == 2).all()


@pytest.mark.parametrize(("batch_size", "host_count"), [(8, 1), (12, 3), (100, 2)])
def test_each_example_comes_exactly_once_an_epoch(numbered, dataset, batch_size, host_count):
    """Of 97, which is prime: batches run on over the ends of epochs."""
    dataset.batch_size, count = batch_size, 3 * NUM_RECORDS // batch_size + 1
    hosts = [_take(_train(numbered, dataset, host_index=i, host_count=host_count), count) for i in range(host_count)]
    rows = {key: np.concatenate([host[i][key] for i in range(count) for host in hosts]) for key in ("index", "seed")}
    for epoch in range(3):
        part = rows["index"][epoch * NUM_RECORDS : (epoch + 1) * NUM_RECORDS]
        assert sorted(part) == list(range(NUM_RECORDS))
    assert len(set(rows["seed"])) == batch_size * count


@pytest.mark.parametrize("chunk_bytes", [1, 10**9])
def test_repeats_are_one_example_with_a_seed_each(numbered, dataset, monkeypatch, chunk_bytes):
    """Eight rows of four examples, the first row as without repeats; the epoch still has each example once."""
    monkeypatch.setattr(pipeline, "CHUNK_BYTES", chunk_bytes)
    dataset.batch_size = 4
    singles = _take(_train(numbered, dataset), 26)
    dataset.batch_size, dataset.repeats = 8, 2
    batches = _take(_train(numbered, dataset), 26)
    for single, batch in zip(singles, batches, strict=True):
        for repeat in range(2):
            rows = {key: value[repeat::2] for key, value in batch.items()}
            seeds = single["seed"] if repeat == 0 else rows["seed"]
            _assert_equal(single | {"seed": seeds}, rows)
    assert len({seed for batch in batches for seed in batch["seed"]}) == 26 * 8
    assert len(set(np.concatenate([batch["index"] for batch in batches])[: 2 * NUM_RECORDS])) == NUM_RECORDS


def test_repeats_are_shared_by_hosts_and_resumed_like_all_rows(numbered, dataset):
    dataset.batch_size, dataset.repeats = 12, 3
    whole = _take(_train(numbered, dataset), 3)[2]
    hosts = [_take(_train(numbered, dataset, first_batch=2, host_index=i, host_count=4), 1)[0] for i in range(4)]
    _assert_equal(whole, {key: np.concatenate([host[key] for host in hosts]) for key in whole})
    with pytest.raises(ValueError, match="batch_size / repeats 4 must be a multiple of the number of hosts, 3"):
        _train(numbered, dataset, host_count=3)
    dataset.repeats = 5
    with pytest.raises(ValueError, match="batch_size 12 must be a multiple of repeats, 5"):
        _train(numbered, dataset)


def test_repeats_are_decoded_once(numbered, dataset, monkeypatch):
    decoded, decode_frames = tf.Variable(0), decode.decode_frames

    def counting(*arguments):
        with tf.control_dependencies([decoded.assign_add(1)]):
            return decode_frames(*arguments)

    monkeypatch.setattr(decode, "decode_frames", counting)
    dataset.repeats = 4
    _take(_train(numbered, dataset), 3)
    assert 3 * 2 <= decoded.numpy() < 3 * 8  # two examples a batch, not eight; some are read ahead


def test_evaluation_has_no_repeats(numbered, dataset):
    dataset.repeats = 4
    (batch,) = _take(pipeline.eval_stream(numbered, dataset), 1)
    assert batch["index"].tolist() == list(range(8))


def test_any_batch_can_be_the_first(numbered, dataset):
    batches = _take(_train(numbered, dataset), 120)
    ends = [NUM_RECORDS * epochs // 8 for epochs in (1, 2, 7)]  # batches in which an epoch ends
    for step in (0, 1, ends[0] - 1, *ends, ends[-1] + 1, 119):
        (batch,) = _take(_train(numbered, dataset, first_batch=step), 1)
        _assert_equal(batch, batches[step])
    for step in (1, ends[1]):
        (batch,) = _take(_new(numbered, dataset, first_batch=step), 1)
        _assert_equal(batch, batches[step])


def test_far_batches_do_not_need_the_ones_before(numbered, dataset):
    one, two = _take(_new(numbered, dataset, first_batch=10**9), 2)
    _assert_equal(two, _take(_train(numbered, dataset, first_batch=10**9 + 1), 1)[0])
    assert not set(one["index"]) & set(two["index"])


def test_the_first_batch_at_step_1e9_comes_within_two_seconds(numbered, dataset):
    mix = mixture.Mixture({"numbered": 0.7, "another": 0.3}, "interleave", seed=0)

    def seconds(step):
        start = time.process_time()  # of all threads: the machine may have much else to do
        while "numbered" not in mix.at(step):
            step += 1
        _take(_new(numbered, dataset, first_batch=mix.at(step)["numbered"]), 1)
        return time.process_time() - start

    assert min(seconds(10**9 + 100 * i) for i in range(3)) < 2


@pytest.mark.parametrize("host_count", [2, 4])
def test_the_global_batch_is_the_same_for_any_number_of_hosts(numbered, dataset, host_count):
    whole = _take(_train(numbered, dataset, first_batch=11), 3)
    hosts = [
        _take(_train(numbered, dataset, first_batch=11, host_index=i, host_count=host_count), 3)
        for i in range(host_count)
    ]
    for step, batch in enumerate(whole):
        _assert_equal(batch, {key: np.concatenate([host[step][key] for host in hosts]) for key in batch})


def test_a_batch_that_hosts_cannot_share_is_refused(numbered, dataset):
    with pytest.raises(ValueError, match="batch_size / repeats 8 must be a multiple of the number of hosts, 3"):
        _train(numbered, dataset, host_count=3)


@pytest.mark.parametrize(("host_count", "num_shards"), [(3, 12), (4, 200)])
def test_an_evaluation_batch_of_any_size_is_shared(numbered, dataset, host_count, num_shards):
    """Each example once, whatever hosts and devices share; some hosts have fewer of them, or none."""
    dataset.eval_batch_size = 5
    hosts = [
        list(pipeline.eval_stream(numbered, dataset, pipeline.ReadOptions(i, host_count), num_shards))
        for i in range(host_count)
    ]
    sizes = {len(batch["weight"]) for batches in hosts for batch in batches}
    assert sizes == {num_shards // host_count} and len(set(map(len, hosts))) == 1
    index = np.concatenate([batch["index"] for batches in hosts for batch in batches])
    weight = np.concatenate([batch["weight"] for batches in hosts for batch in batches])
    assert sorted(index[weight > 0]) == list(range(numbered.num_examples))
    assert (index[weight == 0] == -1).all() and len(index) % num_shards == 0


def test_seed_and_name_change_order_and_augmentation(numbered, dataset):
    def first(name, seed):
        (batch,) = _take(pipeline.train_stream(numbered, dataset, name=name, seed=seed, first_batch=0), 1)
        return batch

    batches = [first(name, seed) for name in ("a", "b") for seed in (0, 1)]
    assert len({tuple(batch["index"]) for batch in batches}) == 4
    assert len({seed for batch in batches for seed in batch["seed"]}) == 32


@pytest.mark.parametrize("host_count", [1, 4])
def test_evaluation_sees_each_example_exactly_once(numbered, dataset, host_count):
    hosts = [
        list(pipeline.eval_stream(numbered, dataset, pipeline.ReadOptions(i, host_count))) for i in range(host_count)
    ]
    assert {len(batches) for batches in hosts} == {13}  # 97 in batches of 8
    batches = [batch for host in hosts for batch in host]
    seen = collections.Counter(index for batch in batches for index in batch["index"][batch["weight"] == 1].tolist())
    assert seen == dict.fromkeys(range(NUM_RECORDS), 1)
    padding = np.concatenate([batch["index"][batch["weight"] == 0] for batch in batches])
    assert padding.tolist() == [examples.PADDING_INDEX] * 7
    assert not any(batch["frames"][batch["weight"] == 0].any() for batch in batches)


def test_evaluation_clips_follow_one_another(numbered, dataset, record_of):
    dataset.eval_clips = 3
    for batch in _take(pipeline.eval_stream(numbered, dataset), 2):
        assert batch["frames"].shape == (8, 12, 8, 12, 3)
        batch["record"] = record_of[batch["index"]]
        np.testing.assert_array_equal(_stored(batch), np.tile([0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11], (8, 1)))


def test_shuffled_frames_are_those_of_the_clip_in_an_order_of_its_own(numbered, dataset, record_of):
    for stream in (pipeline.eval_stream, _train):
        dataset.shuffle_frames = False
        (batch,) = _take(stream(numbered, dataset), 1)
        dataset.shuffle_frames = True
        (shuffled,) = _take(stream(numbered, dataset), 1)
        for one in (batch, shuffled):
            one["record"] = record_of[one["index"]]
        frames = _stored(shuffled)
        np.testing.assert_array_equal(np.sort(frames), _stored(batch))
        assert len({tuple(np.argsort(row)) for row in frames}) > 1
        _assert_equal(shuffled, shuffled | {key: batch[key] for key in batch.keys() - {"frames"}})


def _damage(path, at):
    content = bytearray(pathlib.Path(path).read_bytes())
    content[at] ^= 4
    pathlib.Path(path).write_bytes(content)


@pytest.mark.parametrize("chunk_bytes", [1, 10**9])  # read one by one, or eight at once
def test_a_damaged_record_weighs_nothing_and_all_others_are_unchanged(make_numbered, dataset, monkeypatch, chunk_bytes):
    monkeypatch.setattr(pipeline, "CHUNK_BYTES", chunk_bytes)
    data_dir = make_numbered()
    split = records.open_split("numbered", "train", data_dir)
    before = _take(_train(split, dataset), 12)
    damaged = [3, 14, 15, 29, 50, 51, 52, 70, 88, 96]
    for i in damaged:
        _damage(split.paths[split.shards[i]], split.offsets[i] + 500)
    for was, now in zip(before, _take(_new(split, dataset), 12), strict=True):
        bad = np.isin(now["index"], damaged)
        np.testing.assert_array_equal(now["weight"], np.where(bad, 0, 1))
        assert not now["frames"][bad].any()
        np.testing.assert_array_equal(was["index"], now["index"])
        _assert_equal(
            {key: value[~bad] for key, value in was.items()}, {key: value[~bad] for key, value in now.items()}
        )


def test_undecodable_jpegs_and_empty_clips_weigh_nothing(tmp_path, dataset, numbered):
    jpeg = tf.io.encode_jpeg(np.full((6, 10, 3), 9, np.uint8)).numpy()
    clips = [[jpeg] * 4, [jpeg[:-40]] * 4, [b"<html>"] * 4, [], [jpeg] * 4]
    path = str(tmp_path / "bad.tfrecord-00000-of-00001")
    with tf.io.TFRecordWriter(path) as writer:
        for label, jpegs in enumerate(clips):
            writer.write(_serialized(jpegs, label))
    index = records.scan(epath.Path(path)).offsets
    split = records.Split(
        "bad", "train", (path,), np.zeros(5, np.int32), index[:-1], (), ("frames", "label"), "video", ""
    )
    dataset.eval_batch_size = 5
    (batch,) = list(pipeline.eval_stream(split, dataset))
    assert batch["weight"].tolist() == [1, 0, 0, 0, 1]
    assert batch["label"].tolist() == [0, 0, 0, 0, 4]
    with pipeline.eval_stream(split, dataset) as stream:
        why = [stream.why_undecodable(i, 0).partition(": ")[2] for i in range(5)]
    assert why[0] == why[4] == "nothing is wrong with it now"
    assert "Invalid JPEG data" in why[1] and "Unknown image file format" in why[2] and "indices[0] = 0" in why[3], why


def _serialized(jpegs, label):
    feature = {
        "frames": tf.train.Feature(bytes_list=tf.train.BytesList(value=jpegs)),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


@pytest.mark.parametrize(("threads", "chunk_bytes"), [(1, 10**9), (2, 10**9), (2, 1)])
def test_a_shard_lost_during_a_run_is_an_error_and_no_hang(make_numbered, dataset, monkeypatch, threads, chunk_bytes):
    monkeypatch.setattr(pipeline, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(pipeline, "RETRY_WAITS_S", (0.1, 0.2))
    split = records.open_split("numbered", "train", make_numbered(num_shards=1))
    options = pipeline.ReadOptions(threads=threads)
    with pipeline.train_stream(split, dataset, name="n", seed=0, first_batch=0, options=options) as stream:
        next(stream)
        pathlib.Path(split.paths[0]).unlink()
        lost = rf"^numbered train: .*{split.paths[0]}.*No such file.* \(tried 3 times in 0.3\d* s\)$"
        with pytest.raises(pipeline.ShardLostError, match=lost):
            collections.deque(stream, maxlen=0)  # what was read ahead comes first


def test_a_shard_that_comes_back_changes_nothing(make_numbered, dataset, monkeypatch):
    split = records.open_split("numbered", "train", make_numbered(num_shards=1))
    before = _take(_train(split, dataset, first_batch=5), 12)
    shard = pathlib.Path(split.paths[0])
    waits = iter([shard.with_suffix(".away").rename, lambda _: None])
    monkeypatch.setattr(pipeline.time, "sleep", lambda _: next(waits)(shard) if not shard.exists() else None)
    with _train(split, dataset, first_batch=5) as stream:
        again = [next(stream)]
        shard.rename(shard.with_suffix(".away"))
        again += [next(stream) for _ in range(11)]
    assert next(waits, None) is not None, "it was never away"
    for was, now in zip(before, again, strict=True):
        _assert_equal(was, now)


@pytest.mark.parametrize("chunk_bytes", [1, 10**9])
def test_why_an_example_weighs_nothing(make_numbered, dataset, record_of, monkeypatch, chunk_bytes):
    monkeypatch.setattr(pipeline, "CHUNK_BYTES", chunk_bytes)
    split = records.open_split("numbered", "train", make_numbered(num_shards=1))
    path, offset = split.paths[0], split.offsets[50]
    stream = _train(split, dataset)
    assert stream.why_undecodable(50, 7) == f"{path} at byte {offset} ({record_of[50]}): nothing is wrong with it now"
    _damage(path, offset + 500)
    assert re.fullmatch(rf"{path} at byte {offset}: corrupted record at .*", stream.why_undecodable(50, 7))


def test_the_examples_of_a_batch_are_known_without_reading_it(numbered, dataset):
    dataset.batch_size, dataset.repeats = 8, 2
    batches = _take(_train(numbered, dataset, first_batch=30), 2)
    for i, batch in enumerate(batches, 30):
        assert pipeline.batch_indices(numbered, dataset, name="numbered", seed=0, batch=i) == list(batch["index"][::2])


def test_what_the_records_lack_is_refused_by_name(numbered, dataset):
    dataset.frames_feature = "image"
    with pytest.raises(ValueError, match=r"'numbered' has no feature 'image' \(frames_feature\); it has .*frames"):
        _train(numbered, dataset)


def test_a_closed_stream_says_so(numbered, dataset):
    stream = _train(numbered, dataset)
    stream.close()
    with pytest.raises(ValueError, match="this stream is closed"):
        next(stream)
