"""The sampled frames of a clip, stored as JPEGs or as a video file -> uint8 pictures that fit the dataset's canvas.

# T frames; h, w the pictures' height and width.
"""

from data_pipelines.media import frames_of_video
from data_pipelines.stream.host_tf import plain, tf

GIF_MAGIC = b"GIF8"


def decode_frames(jpegs_T: tf.Tensor, canvas_px: tuple[int, int]) -> tf.Tensor:
    """Decodes frames, and shrinks those that are larger than the canvas until they fit.

    Args:
        jpegs_T: the encoded frames, string [T]. T is static. Grey frames become RGB.
        canvas_px: height and width.

    Returns:
        uint8 [T, h, w, 3], with h and w at most the canvas's.

    Raises:
        tf.errors.InvalidArgumentError: a frame cannot be decoded, or the frames differ in size.
    """
    # The graph has one op per frame: a loop over the frames would add up to a tenth of the decoding time.
    jpegs = tf.unstack(without_gifs(jpegs_T))
    return _shrink_to_fit(tf.stack([_decode_one(jpeg) for jpeg in jpegs]), canvas_px)


def without_gifs(jpegs_T: tf.Tensor) -> tf.Tensor:
    """Replaces each GIF by an empty string, which cannot be decoded.

    TensorFlow's JPEG decoder also accepts a GIF and decodes all its frames before it refuses it. So a small file could
    take all of a host's memory.
    """
    return tf.where(tf.strings.substr(jpegs_T, 0, len(GIF_MAGIC)) == GIF_MAGIC, "", jpegs_T)


def decode_video(video: tf.Tensor, indices_T: tf.Tensor, canvas_px: tuple[int, int]) -> tf.Tensor:
    """Decodes frames of a video file, in Python.

    This is slower than JPEGs, and a Python process decodes one video at a time.

    Args:
        video: the file's bytes, a string scalar.
        indices_T: which of its frames, int64 [T].
        canvas_px: height and width.

    Returns:
        As `decode_frames`.

    Raises:
        tf.errors.OpError: the video cannot be decoded, or has no such frame.
    """
    frames = tf.numpy_function(frames_of_video.frames_at, [video, indices_T], tf.uint8, stateful=False)
    return _shrink_to_fit(tf.ensure_shape(frames, (indices_T.shape[0], None, None, 3)), canvas_px)


def _decode_one(jpeg: tf.Tensor) -> tf.Tensor:
    # The default DCT is faster but less exact, and it differs between builds of libjpeg.
    return tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE")


def _shrink_to_fit(frames_Thw3: tf.Tensor, canvas_px: tuple[int, int]) -> tf.Tensor:
    """Shrinks frames to the largest size that fits and keeps their shape; frames that fit stay unchanged."""
    size_px = tf.shape(frames_Thw3)[1:3]
    return tf.cond(
        tf.reduce_all(size_px <= canvas_px),
        plain(lambda: frames_Thw3),
        plain(lambda: _resize_area(frames_Thw3, _fitting_size(size_px, canvas_px))),
    )


def _fitting_size(size_px: tf.Tensor, canvas_px: tuple[int, int]) -> tf.Tensor:
    scale = tf.reduce_min(tf.constant(canvas_px, tf.float64) / tf.cast(size_px, tf.float64))
    shrunk_px = tf.cast(tf.round(tf.cast(size_px, tf.float64) * scale), tf.int32)
    return tf.clip_by_value(shrunk_px, 1, tf.constant(canvas_px))


def _resize_area(frames_Thw3: tf.Tensor, size_px: tf.Tensor) -> tf.Tensor:
    resized = tf.image.resize(frames_Thw3, size_px, method="area")
    return tf.cast(tf.round(resized), tf.uint8)
