"""The sizes of stored frames, from a few records of a split. Of a JPEG only the header is read.

# N records that were read.
"""

import concurrent.futures
import functools
from collections.abc import Callable

import numpy as np

from data_pipelines.media import frames_of_video
from data_pipelines.stream import decode, records
from data_pipelines.stream.host_tf import tf

SAMPLED_RECORDS = 64  # per split: a median of them has an error of about 6 % of the records
_THREADS = 16  # they wait for storage
_ANY_SIZE = np.iinfo(np.int32).max


def sample_sizes(split: records.Split, frames_feature: str = "frames") -> np.ndarray:
    """Height and width of the first frame of records that are evenly spaced over a split, the same at each call.

    Args:
        split: what to read.
        frames_feature: the feature that holds its JPEG bytes.

    Returns:
        int32 [N, 2], N at most SAMPLED_RECORDS; without the records that cannot be read.
    """
    media_feature, locate = records.media_feature(split, frames_feature), records.locator(split)
    indices = np.linspace(0, split.num_examples - 1, min(SAMPLED_RECORDS, split.num_examples)).astype(np.int64)
    size_of = functools.partial(_size, _first_media(media_feature), media_feature == records.VIDEO_FEATURE)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        sizes = pool.map(lambda index: size_of(*locate(tf.constant(index, tf.int64))), indices)
        return np.array([size for size in sizes if size is not None], np.int32).reshape(-1, 2)


def _size(read: Callable[..., tf.Tensor], is_file: bool, path: tf.Tensor, offset: tf.Tensor) -> tuple[int, int] | None:
    try:
        media: bytes = read(path, offset).numpy()
        if is_file:
            height_px, width_px = frames_of_video.frames_at(media, [0]).shape[1:3]
            return height_px, width_px
        height_px, width_px, _ = (int(side) for side in _shape(media))
        return height_px, width_px
    except Exception:  # decoders raise errors of any type; the run itself reports what cannot be decoded
        return None


def _shape(jpeg: bytes) -> tf.Tensor:
    try:
        return tf.io.extract_jpeg_shape(jpeg)
    except tf.errors.InvalidArgumentError:  # a PNG, which is decoded like a JPEG
        return tf.shape(decode.decode_frames(tf.constant([jpeg]), (_ANY_SIZE, _ANY_SIZE)))[1:]


@functools.cache
def _first_media(media_feature: str) -> Callable[..., tf.Tensor]:
    """(shard, offset) -> the first JPEG of a record, or its video file. Traced only once."""

    def first(path: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
        record = records.read_from(path, offset).take(1).get_single_element()
        feature = tf.io.FixedLenSequenceFeature((), tf.string, allow_missing=True)
        return tf.io.parse_single_example(record, {media_feature: feature})[media_feature][0]

    signature = [tf.TensorSpec((), tf.string), tf.TensorSpec((), tf.int64)]
    traced: Callable[..., tf.Tensor] = tf.function(first, signature, autograph=False).get_concrete_function()
    return traced  # traced here: threads that call it at the same time would trace it once each
