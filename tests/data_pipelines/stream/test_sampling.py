import numpy as np
import pytest

from data_pipelines.stream import sampling
from data_pipelines.stream.host_tf import tf


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
        (1, 0.0, 4, 5.0, 2, [0] * 8),  # an image has no rate
        (1, 10.0, 4, 5.0, 1, [0] * 4),
        (16, 30000 / 1001, 4, 7.5, 1, [1, 5, 9, 13]),  # 29.97 fps: every 3.996 frames; starts 0 to 3, from 1 on
        (60, 30000 / 1001, 4, 1.875, 1, [5, 21, 37, 53]),  # every 15.984, starts 0 to 11: 5, 20.98, 36.97, 52.95
        (100, 12.5, 5, 2.0, 1, [37, 43, 50, 56, 62]),  # every 6.25 from 37: 37, 43.25, 49.5, 55.75, 62
        (7, 0.5, 3, 0.25, 1, [1, 3, 5]),  # a frame every two seconds, one wanted every four
        (11, 10.0, 4, 3.0, 2, [0, 3, 7, 10, 0, 3, 7, 10]),  # 3 x 10 / 3 is 10: it just fits
        (12, 10.0, 4, 3.0, 2, [0, 3, 7, 10, 1, 4, 8, 11]),
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


RATES = [0.5, 5.0, 10.0, 12.5, 15.0, 24000 / 1001, 25.0, 30000 / 1001, 60.0]


@pytest.mark.parametrize("stored_fps", RATES)
@pytest.mark.parametrize("sample_fps", [0.5, 1.875, 4.0, 10.0])
def test_dense_frames_are_nearest_in_time_at_any_rate(stored_fps, sample_fps):
    """Each frame is within half a stored frame of its time, counted from the clip's own first frame."""
    for num_stored in (1, 2, 50, 301):
        indices = np.array(_train(num_stored, stored_fps, 8, sample_fps, seed=num_stored))
        assert indices.min() >= 0 and indices.max() < num_stored
        wanted_s = np.arange(8) / sample_fps
        found_s = (indices - indices[0]) / stored_fps
        inside = indices < num_stored - 1  # the last frame also stands for all later times
        assert (np.abs(found_s - wanted_s)[inside] <= (0.5 + 1e-6) / stored_fps).all()
        fits = indices[0] + wanted_s[-1] * stored_fps < num_stored - 1 + 1e-6
        assert fits or indices[0] == 0


def test_views_of_a_clip_reach_its_first_and_last_frame():
    for clips in (2, 3, 5):
        views = np.array(_eval(300, 25.0, 16, 4.0, clips)).reshape(clips, 16)
        assert views[0, 0] == 0 and views[-1, -1] == 299
        assert (np.diff(views[:, 0]) > 0).all()


def test_shuffled_frames_are_the_same_ones_in_any_order():
    indices = np.arange(8) * 3
    orders = [sampling.shuffle(indices, 4, tf.constant(seed, tf.uint32)).numpy() for seed in range(500)]
    for order in orders:
        assert sorted(order[:4]) == [0, 3, 6, 9] and (order[4:] == order[:4] + 12).all()  # two views, shuffled alike
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24 and counts.min() > 8  # of 21 expected
    assert (sampling.shuffle(indices, 4, tf.constant(7, tf.uint32)).numpy() == orders[7]).all()


def test_no_frame_of_a_sampled_second_is_drawn_twice_or_left_out_at_29_97_fps():
    """Wanted as fast as stored, each comes once: 30 frames a second of 30000 / 1001."""
    assert _eval(300, 30000 / 1001, 64, 30.0) == list(range(118, 182))
