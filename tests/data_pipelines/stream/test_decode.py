import io

import numpy as np
import pytest
from PIL import Image

from data_pipelines.media.media_file import encode_jpeg
from data_pipelines.stream import decode
from data_pipelines.stream.host_tf import tf


def _jpeg(array, mode=None):
    buffer = io.BytesIO()
    Image.fromarray(array).convert(mode or "RGB").save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _grey(height, width, level=200):
    return np.full((height, width, 3), level, np.uint8)


def test_small_frames_keep_their_size():
    frames = decode.decode_frames(tf.constant([encode_jpeg(_grey(6, 10))] * 2), (8, 16))
    assert frames.shape == (2, 6, 10, 3) and frames.dtype == tf.uint8
    assert np.abs(frames.numpy().astype(int) - 200).max() <= 1


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(64, 64, [16, 16]), (32, 128, [8, 32]), (100, 20, [16, 3]), (1, 64, [1, 32])]
)
def test_large_frames_are_shrunk_to_fit(height, width, expected):
    frames = decode.decode_frames(tf.constant([encode_jpeg(_grey(height, width))]), (16, 32))
    assert list(frames.shape) == [1, *expected, 3]
    assert np.abs(frames.numpy().astype(int) - 200).max() <= 1


def test_shrinking_averages_areas():
    fine = np.zeros((32, 32, 3), np.uint8)
    fine[:, ::2] = 255
    frames = decode.decode_frames(tf.constant([encode_jpeg(fine)]), (16, 16))
    assert np.abs(frames.numpy().astype(int) - 128).max() <= 3


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_become_rgb(mode):
    frames = decode.decode_frames(tf.constant([_jpeg(_grey(8, 8), mode)]), (8, 8))
    assert np.abs(frames.numpy().astype(int) - 200).max() <= 2


def test_undecodable_and_unequal_frames_raise():
    jpeg = encode_jpeg(_grey(8, 8))
    for bad in (jpeg[: len(jpeg) // 2], b"", b"<html>"):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode.decode_frames(tf.constant([jpeg, bad]), (8, 8))
    in_a_graph = tf.function(decode.decode_frames)  # as tf.data runs it
    with pytest.raises(tf.errors.InvalidArgumentError):
        in_a_graph(tf.constant([jpeg, encode_jpeg(_grey(8, 6))]), (8, 8))
