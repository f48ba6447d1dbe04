"""One dataset's stream of batches, for training from any batch on, or for one pass of evaluation.

All randomness is a function of position (see `order`), so that the state of a stream is the number of its next batch,
and each of several hosts reads just its rows of the same global batch.

# B examples of this host, T frames (clips * frames a clip in evaluation), H, W canvas.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import numpy as np
from absl import logging

from data_pipelines.stream import order, records, sampling
from data_pipelines.stream.batch import Batch, DatasetConfig, InputConfig
from data_pipelines.stream.examples import PADDING_INDEX, ExampleReader, one_line
from data_pipelines.stream.host_tf import plain, tf

RETRY_WAITS_S = (1, 2, 4)
CHUNK_BYTES = 1 << 20  # of decoded frames that one thread reads in one go


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """What this host reads of each batch, and how.

    Attributes:
        host_index: which rows of a global batch: the host_index-th of host_count equal parts.
        host_count: number of hosts.
        threads: of the reading; 0: one per core.
        prefetch_batches: ready ahead.
    """

    host_index: int = 0
    host_count: int = 1
    threads: int = 0
    prefetch_batches: int = 2

    @classmethod
    def of(cls, input_config: InputConfig, host_index: int, host_count: int) -> "ReadOptions":
        """As `input` in a config asks for it (`input_pipeline` of configs/common.py)."""
        return cls(host_index, host_count, input_config.threads, input_config.prefetch_batches)


ONE_HOST = ReadOptions()

# Number of an example that this host reads -> (index of the example in its split, seeds of its rows).
Locate = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


class ShardLostError(OSError):
    """Records that were there when the run started cannot be read any more. The message names the file."""


class Stream(Iterator[Batch]):
    """Batches (see `Batch`); close it, or use it in a `with`.

    A batch that cannot be read at all, because storage is away or a shard is gone, is tried again after each of
    RETRY_WAITS_S; then `ShardLostError` is raised.
    """

    def __init__(self, batches_from: Callable[[int], tf.data.Dataset], reader: ExampleReader):
        """Starts to read.

        Args:
            batches_from: number of a batch -> a tf.data dataset of it and those after it.
            reader: what they are read with.
        """
        self._batches_from, self._reader = batches_from, reader
        self._batches: Iterator[Batch] | None = batches_from(0).as_numpy_iterator()
        self._given = 0

    def __next__(self) -> Batch:
        for wait_s in RETRY_WAITS_S:
            try:
                return self._next()
            except tf.errors.OpError as error:
                logging.warning("reading goes on in %s s: %s", wait_s, error.message)
                time.sleep(wait_s)
                self._batches = self._batches_from(self._given).as_numpy_iterator()
        try:
            return self._next()
        except tf.errors.OpError as error:
            tried = f"tried {len(RETRY_WAITS_S) + 1} times in {sum(RETRY_WAITS_S)} s"
            raise ShardLostError(f"{self._reader.described}: {one_line(error.message)} ({tried})") from error

    def _next(self) -> Batch:
        if self._batches is None:
            raise ValueError("this stream is closed")
        batch = next(self._batches)
        self._given += 1
        return batch

    def why_undecodable(self, index: int, seed: int) -> str:
        """Why the example at `index` weighs nothing, and in which file it stands; reads it again."""
        return self._reader.why_undecodable(index, seed)

    def close(self) -> None:
        """Stops the reading ahead and frees its buffers."""
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
    """Endless training batches; each example comes once an epoch, and batches run on over the ends of epochs.

    With `repeats` in the dataset's config, that many rows beside each other are one example, read and decoded once.

    Args:
        split: what to read.
        dataset: its entry in the config (`configs/common.py`).
        name: its name there, which with `seed` decides order and augmentation.
        seed: the run's seed.
        first_batch: number of the first batch wanted; far ones take no longer.
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
    """Which examples the batch-th training batch has, over all hosts, in the order of their rows.

    Arguments as in `train_stream`.
    """
    key, size = order.stream_key(seed, name), _batch_examples(dataset)
    positions = range(batch * size, (batch + 1) * size)
    return [int(order.locate(tf.constant(p, tf.int64), split.num_examples, key)[1]) for p in positions]


def eval_stream(split: records.Split, dataset: DatasetConfig, options: ReadOptions = ONE_HOST) -> Stream:
    """Each example of a split once, in order; the last batch is filled up with index -1 and weight 0.

    Arguments and errors as in `train_stream`. `frames` hold `eval_clips` clips one after another; `seed` is
    the place in the split, of which only `shuffle_frames` makes use. All hosts have the same number of batches.
    """
    rows = _rows("eval_batch_size", dataset.eval_batch_size, options)
    num_batches = -(-split.num_examples // dataset.eval_batch_size)

    def locate(ordinal: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        position = _position(ordinal, rows, dataset.eval_batch_size)
        index = tf.where(position < split.num_examples, position, PADDING_INDEX)
        return index, tf.cast([position], tf.uint32)

    def sample(num_stored: tf.Tensor, fps: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        clips = dataset.eval_clips
        indices = sampling.eval_indices(num_stored, fps, dataset.num_frames, dataset.sample_fps, clips)
        return _in_order(indices, dataset, seed)

    reader = ExampleReader(split, dataset, dataset.num_frames * dataset.eval_clips, sample)
    return _stream(range(num_batches * len(rows)), locate, reader, len(rows), options)


def _in_order(indices: tf.Tensor, dataset: DatasetConfig, seed: tf.Tensor) -> tf.Tensor:
    """The frames of each clip in the order in which the config asks for them."""
    return sampling.shuffle(indices, dataset.num_frames, seed) if dataset.shuffle_frames else indices


def _batch_examples(dataset: DatasetConfig) -> int:
    """Examples of a global training batch."""
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
    """Position in the global stream of the ordinal-th example that this host reads."""
    return ordinal // len(rows) * batch_size + rows.start + ordinal % len(rows)


def _stream(
    ordinals: range, locate: Locate, reader: ExampleReader, batch_examples: int, options: ReadOptions
) -> Stream:
    def batches_from(given: int) -> tf.data.Dataset:
        return _batches(ordinals[given * batch_examples :], locate, reader, batch_examples, options)

    return Stream(batches_from, reader)


def _batches(
    ordinals: range, locate: Locate, reader: ExampleReader, batch_examples: int, options: ReadOptions
) -> tf.data.Dataset:
    """A tf.data dataset of batches, read in chunks of several examples where these are small."""
    threads = options.threads or os.cpu_count() or 1
    size = _chunk_examples(batch_examples, int(np.prod(reader.frames_shape)))
    firsts = tf.data.Dataset.range(ordinals.start, ordinals.stop, size)

    def read(first: tf.Tensor) -> dict[str, tf.Tensor]:
        if size == 1:
            return reader.read_one(*locate(first))
        return reader.read_chunk(tf.data.Dataset.range(first, first + size).map(plain(locate)), size)

    examples = firsts.map(plain(read), num_parallel_calls=threads, deterministic=True)
    if size == 1:  # padded only here: padding and batching are a copy each, which large clips are spared
        batches = reader.pad(examples, batch_examples)
    else:
        batches = examples.rebatch(batch_examples, drop_remainder=True)
    batches = batches.map(plain(reader.repeat))
    tf_options = tf.data.Options()
    tf_options.deterministic = True
    tf_options.autotune.enabled = False
    tf_options.threading.private_threadpool_size = threads
    return batches.prefetch(options.prefetch_batches).with_options(tf_options)


def _chunk_examples(batch_size: int, example_bytes: int) -> int:
    """The largest part of a batch that keeps within CHUNK_BYTES: handing work to threads costs more than an image."""
    most = max(1, CHUNK_BYTES // example_bytes)
    return max(size for size in range(1, min(most, batch_size) + 1) if batch_size % size == 0)
