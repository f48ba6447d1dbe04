"""Position in a dataset's endless training stream -> epoch, example, and the example's seed. TF ops on scalars.

Every epoch is one permutation of the examples. One point of it is computed in O(1): nothing is stored, and any position
is reached as fast as the first. Both functions are stateless and specified bit by bit, so that a run that is resumed
under another version of TensorFlow continues with the same batches.
"""

import hashlib

from data_pipelines.stream.host_tf import tf

PHILOX = 1  # of tf.random.Algorithm


def stream_key(seed: int, name: str) -> tuple[int, int]:
    """Two 32-bit words that stand for (run seed, dataset name)."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


def locate(position: tf.Tensor, num_examples: int, key: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor]:
    """The epoch and the example at `position` (int64 scalar). Each example comes once per epoch."""
    epoch = position // num_examples
    seed = tf.stack([tf.constant(key[0], tf.uint32), tf.constant(key[1], tf.uint32), tf.cast(epoch, tf.uint32)])
    # The raw op with three words: tf.random.experimental.index_shuffle pads a two-word seed wrongly when batched.
    index = tf.raw_ops.RandomIndexShuffle(
        index=position % num_examples, seed=seed, max_index=tf.constant(num_examples - 1, tf.int64), rounds=4
    )
    return epoch, index


def example_seed(epoch: tf.Tensor, index: tf.Tensor, key: tuple[int, int], repeat: int = 0) -> tf.Tensor:
    """The seed for all randomness of one row, a uint32 scalar; `repeat` counts the rows of one example in one epoch.

    Computed by Philox with `key` and counter (epoch, index and repeat).
    """
    index += repeat << 48  # bits above the index of any example
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=(),
        key=tf.constant([key[0] | key[1] << 32], tf.uint64),
        counter=tf.cast(tf.stack([epoch, index]), tf.uint64),
        alg=PHILOX,
        dtype=tf.uint32,
    )
