"""The environment variables for TensorFlow and libtpu. Call this before TensorFlow is imported or JAX has devices.

It is light to import.
"""

import contextlib
import glob
import logging
import os
import re
from collections.abc import Iterator

# Warnings of TensorFlow Datasets about what is as it should be: a folder builder has a config of its own, and a dataset
# that is about to be prepared is not there yet.
_NO_WARNING = re.compile(r"Using custom data configuration|Variant folder .* has no dataset_info\.json")

# TensorFlow reads all of these once, during import. Values that the user has set are kept.
TENSORFLOW_DEFAULTS = {
    # Hides messages about the CPU's instruction sets. oneDNN prints its message at any level, so oneDNN is off.
    "TF_CPP_MIN_LOG_LEVEL": "1",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    # Retries of TensorFlow's gs:// client. If a bucket refuses 60 % of all attempts, the default of ten retries fails
    # for one request in 165, and thirty retries fail for one in four million. The delays add up to 3.3 minutes.
    "GCS_RETRY_CONFIG_MAX_RETRIES": "30",
    "GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "100000",  # doubled each time,
    "GCS_RETRY_CONFIG_MAX_DELAY_TIME_US": "8000000",  # up to this
}
# Importing TensorFlow imports Keras, and Keras what it can find: scikit-learn, SciPy, Matplotlib. That takes 3 of the 7
# CPU-seconds, and nothing here uses it. If this is set during the import, TensorFlow looks for the older Keras in its
# place and goes on without. Afterwards `tf.keras` is what it always is.
_WITHOUT_KERAS = {"TF_USE_LEGACY_KERAS": "1"}
# Where libtpu is installed, JAX asks it for devices at each start. On a machine without a TPU it then prints some lines
# of warnings and errors about what a TPU's machine would tell it; with these placeholders it finds none in silence.
LIBTPU_DEFAULTS = {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}
_TPU_DEVICES = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")  # of the chips up to v4, and from v5e on


def defaults() -> dict[str, str]:
    """What is set on this machine if the user has not set it."""
    has_tpu = any(glob.glob(pattern) for pattern in _TPU_DEVICES)
    return TENSORFLOW_DEFAULTS | ({} if has_tpu else LIBTPU_DEFAULTS)


def _is_meant(record: logging.LogRecord) -> bool:
    return not _NO_WARNING.match(record.getMessage())


def set_tensorflow_defaults() -> None:
    """Sets `defaults` permanently in this process and in the processes that it will start.

    From now on, absl's logger leaves out the warnings that mean nothing here.
    """
    logging.getLogger("absl").addFilter(_is_meant)
    for name, value in defaults().items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def tensorflow_defaults() -> Iterator[None]:
    """Sets `defaults` inside the context, and restores the environment afterwards."""
    with _added(defaults()):
        set_tensorflow_defaults()
        yield


@contextlib.contextmanager
def tensorflow_import() -> Iterator[None]:
    """What the one import of TensorFlow stands in: `tensorflow_defaults`, and Keras is left for those who use it."""
    with tensorflow_defaults(), _added(_WITHOUT_KERAS):
        yield


@contextlib.contextmanager
def _added(variables: dict[str, str]) -> Iterator[None]:
    """Sets the variables that the user has not set, and removes them again afterwards."""
    added = variables.keys() - os.environ.keys()
    os.environ.update({name: variables[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
