"""Encoded clips of known grey levels, as the parts of other people's datasets."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.data_pipelines.clips import write_clip


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """clip(level) -> the bytes of an mp4 of 12 frames of that grey."""
    folder = tmp_path_factory.mktemp("levels")

    def encode(level: int) -> bytes:
        path = folder / f"{level}.mp4"
        if not path.exists():
            write_clip(path, level=level, num_frames=12)
        return path.read_bytes()

    return encode


def jpeg(level: int) -> bytes:
    """A picture of one grey level."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 24, 3), level, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()
