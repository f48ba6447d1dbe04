"""Curves and images for TensorBoard, in WORKDIR/tensorboard."""

from etils import epath
from ml_collections import ConfigDict

from cover_jax.loggers import metric_writers


def make(workdir: epath.Path, config: ConfigDict) -> metric_writers.MetricWriter:
    """A writer of event files."""
    del config
    return metric_writers.SummaryWriter(str(workdir / "tensorboard"))
