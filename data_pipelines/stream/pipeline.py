"""The stream of batches of one dataset: for training, starting at any batch, or for one pass of evaluation.

All randomness is a function of position (see `order`). So the state of a stream is the index of its next batch, and
each of several hosts reads only its own rows of the same global batch.

# B examples of this host, T frames (clips * frames per clip in evaluation), H, W canvas.
"""

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import numpy as np
from absl import logging

from data_pipelines.stream import order, records, sampling
from data_pipelines.stream.batch import Batch, DatasetConfig, InputConfig, eval_batch_rows
from data_pipelines.stream.examples import PADDING_INDEX, ExampleReader, describe_tf_error
from data_pipelines.stream.host_tf import plain, tf

RETRY_WAITS_S = (1, 2, 4)
CHUNK_BYTES = 1 << 20  # of decoded frames, which one thread reads as one unit of work


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """What this host reads of each batch, and how.

    Attributes:
        host_index: which part of the global batch this host reads; the batch has host_count equal parts.
        host_count: number of hosts.
        threads: number of reader threads; 0: one per core.
        prefetch_batches: how many batches are kept ready.
    """

    host_index: int = 0
    host_count: int = 1
    threads: int = 0
    prefetch_batches: int = 2

    @classmethod
    def of(cls, input_config: InputConfig, host_index: int, host_count: int) -> "ReadOptions":
        """The options that `input` in a config sets (`input_pipeline` of configs/common.py)."""
        return cls(host_index, host_count, input_config.threads, input_config.prefetch_batches)


ONE_HOST = ReadOptions()

# Position in this host's sequence of examples -> (index of the example in its split, seeds of its rows).
Locate = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


class ShardLostError(OSError):
    """Records that existed when the run started can no longer be read. The message names the file."""


class Stream(Iterator[Batch]):
    """An iterator of batches (see `Batch`). Close it, or use it in a `with` statement.

    If a batch cannot be read because storage is unavailable or a shard is gone, it is tried again after each of
    RETRY_WAITS_S. Then `ShardLostError` is raised.
    """

    def __init__(self, batches_from: Callable[[int], tf.data.Dataset], reader: ExampleReader):
        """Starts reading.

        Args:
            batches_from: index of a batch -> a tf.data dataset of that batch and all later ones.
            reader: reads the examples.
        """
        self._batches_from, self._reader = batches_from, reader
        self._all = batches_from(0)
        self.restart()

    def restart(self, batch: int = 0) -> None:
        """Starts again, also after `close`, with the batch that came, or would come, after `batch` others.

        It uses TensorFlow's functions again: a new stream traces its own, which takes most of a second of CPU time.
        """
        batches = self._batches_from(batch) if batch else self._all
        self._batches: Iterator[Batch] | None = batches.as_numpy_iterator()
        self._given = batch

    def __next__(self) -> Batch:
        for wait_s in RETRY_WAITS_S:
            try:
                return self._next()
            except tf.errors.OpError as error:
                logging.warning("reading failed and is tried again in %s s: %s", wait_s, error.message)
                time.sleep(wait_s)
                self.restart(self._given)
        try:
            return self._next()
        except tf.errors.OpError as error:
            tried = f"tried {len(RETRY_WAITS_S) + 1} times in {sum(RETRY_WAITS_S)} s"
            raise ShardLostError(f"{self._reader.described}: {describe_tf_error(error.message)} ({tried})") from error

    def _next(self) -> Batch:
        if self._batches is None:
            raise ValueError("this stream is closed")
        batch = next(self._batches)
        self._given += 1
        return batch

    def why_undecodable(self, index: int, seed: int) -> str:
        """Why the example at `index` has weight 0, and which file it is in. Reads the example again."""
        return self._reader.why_undecodable(index, seed)

    def close(self) -> None:
        """Stops prefetching and frees the buffers."""
        self._batches = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def train_stream(
    split: records.Split,
    dataset: DatasetConfig,
    *,
    name: str,
    seed: int,
    first_batch: int,
    options: ReadOptions = ONE_HOST,
) -> Stream:
    """Endless training batches. Each example comes once per epoch, and a batch may span the end of an epoch.

    With `repeats` in the dataset's config, that many neighbouring rows are one example, which is decoded once.

    Args:
        split: what to read.
        dataset: its entry in the config (`configs/common.py`).
        name: its name in the config. Name and `seed` determine order and augmentation.
        seed: the run's seed.
        first_batch: index of the first batch; a large index takes no longer.
        options: what this host reads.

    Raises:
        ValueError: `batch_size` is not a multiple of the number of hosts times `repeats`, or the split lacks what the
            config asks for.
    """
    batch_examples = _batch_examples(dataset)
    mine = _rows("batch_size / repeats", batch_examples, options)
    key = order.stream_key(seed, name)

    def locate(ordinal: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        position = _position(ordinal, mine, batch_examples)
        epoch, index = order.locate(position, split.num_examples, key)
        seeds = [order.example_seed(epoch, index, key, repeat) for repeat in range(dataset.repeats)]
        return index, tf.stack(seeds)

    def sample(num_stored: tf.Tensor, fps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        indices = sampling.train_indices(num_stored, fps, dataset.num_frames, dataset.sample_fps, seed)
        return _in_order(indices, dataset, seed)

    reader = ExampleReader(split, dataset, dataset.num_frames, sample, dataset.repeats)
    ordinals = range(first_batch * len(mine), np.iinfo(np.int64).max)
    return _stream(ordinals, locate, reader, len(mine), options)


def batch_indices(split: records.Split, dataset: DatasetConfig, *, name: str, seed: int, batch: int) -> list[int]:
    """Indices of the examples in the training batch with index `batch`, over all hosts, in the order of the rows.

    Arguments as in `train_stream`.
    """
    key, size = order.stream_key(seed, name), _batch_examples(dataset)
    positions = range(batch * size, (batch + 1) * size)
    return [int(order.locate(tf.constant(p, tf.int64), split.num_examples, key)[1]) for p in positions]


def eval_stream(
    split: records.Split, dataset: DatasetConfig, options: ReadOptions = ONE_HOST, num_shards: int = 1
) -> Stream:
    """Each example of a split once, in order. The last batch is padded with index -1 and weight 0.

    `frames` hold `eval_clips` clips one after another. `seed` is the position in the split; only `shuffle_frames` uses
    it. All hosts have the same number of batches, of the same size: a host without examples has padding.

    Args:
        split, dataset, options: as in `train_stream`.
        num_shards: devices that share a batch. `eval_batch_size` is rounded up to a multiple of them and of the hosts
            (`batch.eval_batch_rows`).

    Raises:
        ValueError: the split lacks what the config asks for.
    """
    batch_size = eval_batch_rows(dataset, math.lcm(num_shards, options.host_count))
    rows = _rows("eval_batch_size", batch_size, options)
    num_batches = -(-split.num_examples // batch_size)

    def locate(ordinal: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        position = _position(ordinal, rows, batch_size)
        index = tf.where(position < split.num_examples, position, PADDING_INDEX)
        return index, tf.cast([position], tf.uint32)

    def sample(num_stored: tf.Tensor, fps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        clips = dataset.eval_clips
        indices = sampling.eval_indices(num_stored, fps, dataset.num_frames, dataset.sample_fps, clips)
        return _in_order(indices, dataset, seed)

    reader = ExampleReader(split, dataset, dataset.num_frames * dataset.eval_clips, sample)
    return _stream(range(num_batches * len(rows)), locate, reader, len(rows), options)


def _in_order(indices: tf.Tensor, dataset: DatasetConfig, seed: tf.Tensor) -> tf.Tensor:
    """The frames of each clip in the order that the config sets."""
    return sampling.shuffle(indices, dataset.num_frames, seed) if dataset.shuffle_frames else indices


def _batch_examples(dataset: DatasetConfig) -> int:
    """Number of examples in a global training batch."""
    examples, odd = divmod(dataset.batch_size, dataset.repeats)
    if odd:
        raise ValueError(f"batch_size {dataset.batch_size} must be a multiple of repeats, {dataset.repeats}")
    return examples


def _rows(key: str, batch_size: int, options: ReadOptions) -> range:
    """This host's rows of each global batch."""
    if batch_size <= 0 or batch_size % options.host_count:
        raise ValueError(f"{key} {batch_size} must be a multiple of the number of hosts, {options.host_count}")
    size = batch_size // options.host_count
    return range(options.host_index * size, (options.host_index + 1) * size)


def _position(ordinal: tf.Tensor, rows: range, batch_size: int) -> tf.Tensor:
    """Position in the global stream of this host's example number `ordinal`."""
    return ordinal // len(rows) * batch_size + rows.start + ordinal % len(rows)


def _stream(
    ordinals: range, locate: Locate, reader: ExampleReader, batch_examples: int, options: ReadOptions
) -> Stream:
    """Batches of the examples at `ordinals`. Small examples are read several at a time, in chunks."""
    size = _chunk_examples(batch_examples, int(np.prod(reader.frames_shape)))

    def read(first: tf.Tensor) -> dict[str, tf.Tensor]:
        if size == 1:
            return reader.read_one(*locate(first))
        return reader.read_chunk(tf.data.Dataset.range(first, first + size).map(plain(locate)), size)

    read_once_traced = tf.function(read, input_signature=[tf.TensorSpec((), tf.int64)], autograph=False)
    threads = options.threads or os.cpu_count() or 1
    tf_options = tf.data.Options()
    tf_options.deterministic = True
    tf_options.autotune.enabled = False
    tf_options.threading.private_threadpool_size = threads

    def batches_from(given: int) -> tf.data.Dataset:
        left = ordinals[given * batch_examples :]
        firsts = tf.data.Dataset.range(left.start, left.stop, size)
        examples = firsts.map(plain(read_once_traced), num_parallel_calls=threads, deterministic=True)
        if size == 1:  # padded only here: padding and batching copy the data once each, which large clips avoid
            batches = reader.pad(examples, batch_examples)
        else:
            batches = examples.rebatch(batch_examples, drop_remainder=True)
        return batches.map(plain(reader.repeat)).prefetch(options.prefetch_batches).with_options(tf_options)

    return Stream(batches_from, reader)


def _chunk_examples(batch_size: int, example_bytes: int) -> int:
    """Examples per chunk: the largest part of a batch within CHUNK_BYTES.

    Passing work to a thread costs more than an image.
    """
    most = max(1, CHUNK_BYTES // example_bytes)
    return max(size for size in range(1, min(most, batch_size) + 1) if batch_size % size == 0)
