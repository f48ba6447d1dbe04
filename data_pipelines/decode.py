"""JPEG bytes of the sampled frames -> uint8 on the dataset's canvas.

# T frames; H, W canvas height and width; h, w the picture's own.
"""

from data_pipelines.host_tf import tf


def decode_frames(jpegs_T, canvas_px: tuple[int, int]):
    """Frames in the top left corner of the canvas, shrunk only if they are larger than it, zeros around them.

    Args:
      jpegs_T: the encoded frames, string [T]; grey ones become RGB.
      canvas_px: (H, W).

    Returns:
      uint8 [T, H, W, 3], and the picture's own size on the canvas, int32 [2] (h, w).

    Raises:
      tf.errors.InvalidArgumentError: a frame cannot be decoded, or the frames differ in size.
    """
    frames_THW3, sizes_T2 = tf.map_fn(
        lambda jpeg: _decode_one(jpeg, canvas_px),
        jpegs_T,
        fn_output_signature=(tf.TensorSpec((*canvas_px, 3), tf.uint8), tf.TensorSpec((2,), tf.int32)),
    )
    with tf.control_dependencies([tf.debugging.assert_equal(sizes_T2, sizes_T2[:1], "frames differ in size")]):
        return frames_THW3, tf.identity(sizes_T2[0])


def _decode_one(jpeg, canvas_px: tuple[int, int]):
    # The default DCT is a faster, less exact one that differs between builds of libjpeg.
    frame_hw3 = tf.io.decode_jpeg(jpeg, channels=3, dct_method="INTEGER_ACCURATE")
    frame_hw3 = _shrink_to_fit(frame_hw3, canvas_px)
    size_px = tf.shape(frame_hw3)[:2]
    missing = tf.stack([canvas_px[0] - size_px[0], canvas_px[1] - size_px[1], 0])
    frame_HW3 = tf.pad(frame_hw3, tf.stack([tf.zeros_like(missing), missing], axis=1))
    return tf.ensure_shape(frame_HW3, (*canvas_px, 3)), size_px


def _shrink_to_fit(frame_hw3, canvas_px: tuple[int, int]):
    """The frame itself if it fits; else shrunk to the largest size of the same shape that does."""
    size_px = tf.shape(frame_hw3)[:2]
    return tf.cond(
        tf.reduce_all(size_px <= canvas_px),
        lambda: frame_hw3,
        lambda: _resize_area(frame_hw3, _fitting_size(size_px, canvas_px)),
    )


def _fitting_size(size_px, canvas_px: tuple[int, int]):
    scale = tf.reduce_min(tf.constant(canvas_px, tf.float64) / tf.cast(size_px, tf.float64))
    shrunk_px = tf.cast(tf.round(tf.cast(size_px, tf.float64) * scale), tf.int32)
    return tf.clip_by_value(shrunk_px, 1, tf.constant(canvas_px))


def _resize_area(frame_hw3, size_px):
    resized = tf.image.resize(frame_hw3, size_px, method="area")
    return tf.cast(tf.round(resized), tf.uint8)
