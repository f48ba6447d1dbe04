"""JPEG bytes of the sampled frames -> uint8 pictures that fit the dataset's canvas.

# T frames; h, w the pictures' height and width.
"""

from data_pipelines.host_tf import plain, tf


def decode_frames(jpegs_T, canvas_px: tuple[int, int]):
    """Decodes frames, and shrinks those that are larger than the canvas until they fit.

    Args:
      jpegs_T: the encoded frames, string [T]; grey ones become RGB.
      canvas_px: height and width.

    Returns:
      uint8 [T, h, w, 3], with h and w at most the canvas's.

    Raises:
      tf.errors.InvalidArgumentError: a frame cannot be decoded, or the frames differ in size.
    """
    return tf.map_fn(
        plain(lambda jpeg: _decode_one(jpeg, canvas_px)),
        jpegs_T,
        fn_output_signature=tf.TensorSpec((None, None, 3), tf.uint8),
    )


def _decode_one(jpeg, canvas_px: tuple[int, int]):
    # The default DCT is a faster, less exact one that differs between builds of libjpeg.
    return _shrink_to_fit(tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE"), canvas_px)


def _shrink_to_fit(frame_hw3, canvas_px: tuple[int, int]):
    """The frame itself if it fits; else shrunk to the largest size of the same shape that does."""
    size_px = tf.shape(frame_hw3)[:2]
    return tf.cond(
        tf.reduce_all(size_px <= canvas_px),
        plain(lambda: frame_hw3),
        plain(lambda: _resize_area(frame_hw3, _fitting_size(size_px, canvas_px))),
    )


def _fitting_size(size_px, canvas_px: tuple[int, int]):
    scale = tf.reduce_min(tf.constant(canvas_px, tf.float64) / tf.cast(size_px, tf.float64))
    shrunk_px = tf.cast(tf.round(tf.cast(size_px, tf.float64) * scale), tf.int32)
    return tf.clip_by_value(shrunk_px, 1, tf.constant(canvas_px))


def _resize_area(frame_hw3, size_px):
    resized = tf.image.resize(frame_hw3, size_px, method="area")
    return tf.cast(tf.round(resized), tf.uint8)
