"""Curves and images for TensorBoard, in WORKDIR/tensorboard."""

from clu import metric_writers
from etils import epath
from ml_collections import ConfigDict


def make(workdir: epath.Path, config: ConfigDict) -> metric_writers.MetricWriter:
    """A writer of event files."""
    del config
    return metric_writers.SummaryWriter(str(workdir / "tensorboard"))
