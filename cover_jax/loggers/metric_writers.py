"""CLU's metric writers, imported without Keras. Import them from here: CLU's own import loads Keras at every start.

TensorBoard's module for hyperparameters, which CLU's writer of event files uses, also defines a callback for Keras
models. For that it loads Keras, and Keras loads scikit-learn, SciPy and Matplotlib.
"""

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator

from data_pipelines.stream import host_tf  # noqa: F401 - imports TensorFlow as this package needs it, before CLU does

_HPARAMS = "tensorboard.plugins.hparams"


@contextlib.contextmanager
def _without_keras() -> Iterator[None]:
    """Inside the context, TensorBoard's `hparams.api` is imported without its callback for Keras.

    Afterwards the module counts as not imported: whoever uses it with Keras gets all of it. Where somebody has imported
    it before, nothing is to be saved.
    """
    if f"{_HPARAMS}.api" in sys.modules:
        yield
        return
    package = importlib.import_module(_HPARAMS)
    stand_in = types.ModuleType(f"{_HPARAMS}._keras")
    stand_in.__dict__["Callback"] = None
    sys.modules[stand_in.__name__] = stand_in
    try:
        yield
    finally:
        for name in ("_keras", "api"):
            sys.modules.pop(f"{_HPARAMS}.{name}", None)
            package.__dict__.pop(name, None)


with _without_keras():
    from clu.metric_writers import MetricWriter, MultiWriter, SummaryWriter

__all__ = ["MetricWriter", "MultiWriter", "SummaryWriter"]
