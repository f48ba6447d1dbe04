import numpy as np
import pytest

from data_pipelines import sampling
from data_pipelines.host_tf import tf


def _train(num_stored, fps, num_frames, sample_fps, seed=0):
    return (
        sampling.train_indices(num_stored, fps, num_frames, sample_fps, tf.constant(seed, tf.uint32)).numpy().tolist()
    )


def _eval(num_stored, fps, num_frames, sample_fps, clips=1):
    indices = sampling.eval_indices(num_stored, fps, num_frames, sample_fps, clips)
    assert indices.dtype == tf.int64
    return indices.numpy().tolist()


@pytest.mark.parametrize(
    ("num_stored", "num_frames", "clips", "expected"),
    [
        (16, 8, 1, [1, 3, 5, 7, 9, 11, 13, 15]),  # the middle of each pair
        (16, 8, 2, [0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15]),  # a quarter and three quarters of each
        (9, 3, 1, [1, 4, 7]),
        (9, 3, 3, [0, 3, 6, 1, 4, 7, 2, 5, 8]),
        (3, 6, 1, [0, 0, 1, 1, 2, 2]),  # a short clip repeats frames
        (1, 1, 1, [0]),
        (1, 4, 2, [0] * 8),
    ],
)
def test_segments_in_evaluation(num_stored, num_frames, clips, expected):
    assert _eval(num_stored, 0.0, num_frames, 0.0, clips) == expected


@pytest.mark.parametrize(
    ("num_stored", "fps", "num_frames", "sample_fps", "clips", "expected"),
    [
        (8, 10.0, 4, 5.0, 1, [0, 2, 4, 6]),  # every second frame, from the only start but one
        (10, 10.0, 4, 5.0, 1, [1, 3, 5, 7]),
        (10, 10.0, 4, 5.0, 2, [0, 2, 4, 6, 3, 5, 7, 9]),  # first and last possible start
        (10, 10.0, 4, 5.0, 4, [0, 2, 4, 6, 1, 3, 5, 7, 2, 4, 6, 8, 3, 5, 7, 9]),
        (11, 12.0, 5, 8.0, 1, [2, 4, 5, 7, 8]),  # every 1.5 frames, the nearest, halves up: 2, 3.5, 5, 6.5, 8
        (3, 10.0, 4, 5.0, 1, [0, 2, 2, 2]),  # too short: the last frame again
        (4, 5.0, 4, 10.0, 1, [0, 1, 1, 2]),  # faster than stored: 0, 0.5, 1, 1.5
    ],
)
def test_dense_in_evaluation(num_stored, fps, num_frames, sample_fps, clips, expected):
    assert _eval(num_stored, fps, num_frames, sample_fps, clips) == expected


def test_segments_in_training_give_one_frame_each_and_reach_all():
    draws = np.array([_train(16, 0.0, 4, 0.0, seed) for seed in range(200)])
    assert (draws // 4 == np.arange(4)).all()
    assert all(set(draws[:, i]) == set(range(4 * i, 4 * i + 4)) for i in range(4))


def test_segments_in_training_of_short_clips_stay_inside():
    draws = np.array([_train(3, 0.0, 8, 0.0, seed) for seed in range(50)])
    assert draws.min() == 0 and draws.max() == 2
    assert (np.diff(draws) >= 0).all()


def test_dense_in_training_starts_anywhere_evenly():
    draws = np.array([_train(10, 10.0, 4, 5.0, seed) for seed in range(400)])
    assert (np.diff(draws) == 2).all()
    starts, counts = np.unique(draws[:, 0], return_counts=True)
    assert starts.tolist() == [0, 1, 2, 3]
    assert counts.min() > 60  # of 100 expected


def test_dense_in_training_repeats_the_last_frame_of_short_clips():
    assert all(_train(3, 10.0, 4, 5.0, seed) == [0, 2, 2, 2] for seed in range(5))
