import numpy as np
import pytest

from data_pipelines.stream import order
from data_pipelines.stream.host_tf import tf

KEY = order.stream_key(0, "clips")


def _epoch(num_examples, epoch, key=KEY):
    positions = tf.range(epoch * num_examples, (epoch + 1) * num_examples, dtype=tf.int64)
    epochs, indices = tf.map_fn(
        lambda position: order.locate(position, num_examples, key), positions, fn_output_signature=(tf.int64, tf.int64)
    )
    assert (epochs.numpy() == epoch).all()
    return indices.numpy().tolist()


@pytest.mark.parametrize("num_examples", [1, 2, 3, 13, 64, 97])
def test_every_epoch_is_a_permutation(num_examples):
    for epoch in (0, 1, 5, 10**7):
        assert sorted(_epoch(num_examples, epoch)) == list(range(num_examples))


def test_epochs_seeds_and_datasets_differ():
    orders = [
        _epoch(97, 0),
        _epoch(97, 1),
        _epoch(97, 0, order.stream_key(1, "clips")),
        _epoch(97, 0, order.stream_key(0, "b")),
    ]
    assert len({tuple(indices) for indices in orders}) == 4


def test_golden_order_and_seeds_never_change():
    assert order.stream_key(0, "clips") == (4197773534, 1183083636)
    assert _epoch(13, 2) == [0, 10, 5, 6, 11, 4, 7, 2, 8, 12, 9, 1, 3]
    seeds = [
        order.example_seed(tf.constant(e, tf.int64), tf.constant(i, tf.int64), KEY) for e, i in [(0, 0), (0, 1), (7, 5)]
    ]
    assert [int(seed) for seed in seeds] == [1343375241, 1492050565, 3873298775]


def test_example_seeds_are_distinct_over_epochs_examples_and_repeats():
    seeds = {
        int(order.example_seed(tf.constant(e, tf.int64), tf.constant(i, tf.int64), KEY, repeat))
        for e in range(12)
        for i in range(12)
        for repeat in range(3)
    }
    assert len(seeds) == 432
    assert 0.4 < np.mean([seed / 2**32 for seed in seeds]) < 0.6
