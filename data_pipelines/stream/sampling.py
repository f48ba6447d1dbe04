"""Which stored frames a clip consists of. TF ops on scalars; the results are int64 [T], or [clips * T].

With `sample_fps` 0 the whole clip is divided into T equal segments, and one frame is taken from each (TSN, arXiv
1608.00859): a random one in training, the middle one in evaluation. With a rate, frames are 1 / sample_fps seconds
apart; the nearest stored frame is taken. The start is random in training; in evaluation the starts are evenly spaced. A
clip that is too short repeats its last frame.
"""

import numpy as np

from data_pipelines.stream.host_tf import tf


def train_indices(
    num_stored: tf.Tensor, stored_fps: tf.Tensor, num_frames: int, sample_fps: float, seed: tf.Tensor
) -> tf.Tensor:
    """One random clip.

    Args:
        num_stored: number of stored frames, an integer scalar.
        stored_fps: their rate, a float scalar; unused when `sample_fps` is 0.
        num_frames: T.
        sample_fps: frames per second; 0: one frame from each of T segments.
        seed: uint32 scalar.
    """
    seed = tf.stack([tf.cast(seed, tf.int64), 0])
    if sample_fps == 0:
        inside = tf.random.stateless_uniform([num_frames], seed, dtype=tf.float64, alg="philox")
        segment_frames = tf.cast(num_stored, tf.float64) / num_frames
        positions = (np.arange(num_frames) + inside) * segment_frames
        return tf.minimum(_floor(positions), tf.cast(num_stored, tf.int64) - 1)
    offsets = _dense_offsets(stored_fps, num_frames, sample_fps)
    u = tf.random.stateless_uniform([], seed, dtype=tf.float64, alg="philox")
    start = tf.floor(u * (_last_start(num_stored, offsets) + 1))
    return _nearest(start + offsets, num_stored)


def eval_indices(
    num_stored: tf.Tensor, stored_fps: tf.Tensor, num_frames: int, sample_fps: float, clips: int
) -> tf.Tensor:
    """`clips` fixed clips, one after another; arguments as in `train_indices`."""
    if sample_fps == 0:
        # Clip c takes the point at (2c + 1) / (2 clips) of a segment. Whole numbers: no rounding error moves a frame.
        c, i = np.divmod(np.arange(clips * num_frames, dtype=np.int64), num_frames)
        return (2 * clips * i + 2 * c + 1) * tf.cast(num_stored, tf.int64) // (2 * clips * num_frames)
    offsets = _dense_offsets(stored_fps, num_frames, sample_fps)
    part, parts = (np.arange(clips), clips - 1) if clips > 1 else (np.array([1]), 2)
    starts = _last_start(num_stored, offsets) * part // parts
    return _nearest(tf.reshape(starts[:, None] + offsets, [clips * num_frames]), num_stored)


def shuffle(indices: tf.Tensor, num_frames: int, seed: tf.Tensor) -> tf.Tensor:
    """Shuffles the frames of one or more clips of T frames. All clips get the same order, which depends on the seed."""
    # Counter 1 gives random numbers that are independent of those of `train_indices`, which has counter 0.
    draws = tf.random.stateless_uniform([num_frames], tf.stack([tf.cast(seed, tf.int64), 1]), alg="philox")
    clips = tf.reshape(indices, [-1, num_frames])
    return tf.reshape(tf.gather(clips, tf.argsort(draws), axis=1), indices.shape)


def _dense_offsets(stored_fps: tf.Tensor, num_frames: int, sample_fps: float) -> tf.Tensor:
    """Distances from a clip's first frame, in stored frames: float64 [T]."""
    # Multiply first: 3 x 10 / 3 is 10, but 3 x (10 / 3) can be slightly more, and then a valid start is lost.
    return np.arange(num_frames) * tf.cast(stored_fps, tf.float64) / sample_fps


def _last_start(num_stored: tf.Tensor, offsets: tf.Tensor) -> tf.Tensor:
    """The last frame at which a clip can start and still end within the video; 0 if the clip does not fit."""
    last = tf.cast(num_stored, tf.float64) - 1
    return tf.maximum(tf.floor(last - offsets[-1]), 0)


def _nearest(positions: tf.Tensor, num_stored: tf.Tensor) -> tf.Tensor:
    return tf.minimum(_floor(positions + 0.5), tf.cast(num_stored, tf.int64) - 1)


def _floor(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.floor(x), tf.int64)
