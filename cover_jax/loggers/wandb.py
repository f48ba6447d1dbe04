"""Curves and images for Weights & Biases, through its own package: `pip install wandb`.

Account, project and mode are set by wandb's own means: `wandb login`, WANDB_PROJECT, WANDB_MODE=offline. A run that
continues in the same workdir continues the same run there.
"""

import html
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import wandb
from etils import epath
from ml_collections import ConfigDict

from cover_jax.errors import ConfigError
from cover_jax.loggers import metric_writers
from data_pipelines import escaping, files

RUN_ID_FILE = "wandb_run_id.txt"


def make(workdir: epath.Path, config: ConfigDict) -> metric_writers.MetricWriter:
    """Starts or continues the run of this workdir.

    Raises:
        ConfigError: wandb does not start it: nobody is logged in, or its server cannot be reached.
    """
    local = {} if files.is_remote(workdir) else {"dir": str(workdir)}  # else wandb's default, the working directory
    run_id = _run_id(workdir)
    try:
        run = wandb.init(id=run_id, resume="allow", name=workdir.name, config=config.to_dict(), **local)
    except OSError:  # storage: the caller leaves the curves out
        raise
    except Exception as error:  # the package raises many types
        raise ConfigError(
            f"config.loggers: wandb does not start: {escaping.one_line(f'{type(error).__name__}: {error}')}; "
            "log in with `wandb login`, set WANDB_MODE=offline, or take 'wandb' out of config.loggers"
        ) from error
    return WandbWriter(run)


def _run_id(workdir: epath.Path) -> str:
    """The identifier of the run: the one of before, or a new one."""
    path = workdir / RUN_ID_FILE
    if path.exists():
        return path.read_text().strip()
    workdir.mkdir(parents=True, exist_ok=True)
    run_id = uuid.uuid4().hex
    files.write_whole(path, run_id.encode())
    return run_id


class WandbWriter(metric_writers.MetricWriter):
    """One run of wandb as a metric writer. Each value is logged at the training step that it belongs to.

    A continued run repeats the steps since its checkpoint. wandb refuses values of earlier steps, so the step is a
    value of its own, which all curves are drawn over.
    """

    def __init__(self, run: Any):
        self._run = run
        run.define_metric("step")
        run.define_metric("*", step_metric="step")

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        self._run.log({"step": step, **values})

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """One point per curve."""
        self._log(step, {name: float(value) for name, value in scalars.items()})

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """Images [number, height, width, channels], or one [height, width, channels]; values 0..1."""
        self._log(step, {name: [wandb.Image(one) for one in _stacked(array)] for name, array in images.items()})

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Each text as it is."""
        pages = {name: f"<pre>{html.escape(text)}</pre>" for name, text in texts.items()}
        self._log(step, {name: wandb.Html(page) for name, page in pages.items()})

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Adds to the run's config."""
        self._run.config.update(dict(hparams))

    def write_histograms(self, step: int, arrays: Mapping[str, Any], num_buckets: Mapping[str, int] | None = None):
        """The distribution of each array's values."""
        buckets = num_buckets or {}
        for name, array in arrays.items():
            counts = np.histogram(np.asarray(array), bins=buckets.get(name, 64))
            self._log(step, {name: wandb.Histogram(np_histogram=counts)})

    def write_summaries(self, step: int, values: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> None:
        """Not used by this project."""
        raise NotImplementedError("wandb has no such summaries")

    write_videos = write_audios = write_pointcloud = write_summaries

    def flush(self) -> None:
        """The package sends in the background."""

    def close(self) -> None:
        """Waits until all is sent."""
        self._run.finish()


def _stacked(array: Any) -> np.ndarray:
    images = np.clip(np.asarray(array, np.float32), 0, 1)
    return images if images.ndim == 4 else images[None]
