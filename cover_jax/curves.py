"""Curves and images for TensorBoard, in WORKDIR/tensorboard; a disk that is full for a while costs a gap in them."""

from collections.abc import Mapping

import jax
import numpy as np
from clu import metric_writers
from etils import epath

from cover_jax import storage


class Curves:
    """Writes from the first host alone. Enter it, so that all is written at the end."""

    def __init__(self, workdir: epath.Path):
        self._folder = str(workdir / "tensorboard")
        first = jax.process_index() == 0
        self._writer = metric_writers.SummaryWriter(self._folder) if first else metric_writers.MultiWriter([])

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        with storage.tolerated(self._folder):
            self._writer.write_scalars(step, scalars)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Images [number, height, width, channels], or one without `number`; values 0..1."""
        with storage.tolerated(self._folder):
            self._writer.write_images(step, images)

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        with storage.tolerated(self._folder):
            self._writer.close()
