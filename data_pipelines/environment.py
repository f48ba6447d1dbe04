"""What TensorFlow is to find in the environment when it is first imported; light, to be called before that."""

import contextlib
import os
from collections.abc import Iterator

# TensorFlow reads all of these once, while it is imported. What the user has set is kept.
TENSORFLOW_DEFAULTS = {
    # Leaves out notes on the CPU's instruction sets. oneDNN prints its own note at any level, so it is off.
    "TF_CPP_MIN_LOG_LEVEL": "1",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    # Retries of TensorFlow's client of gs://. Where a bucket refuses 60 % of all attempts, its own ten retries fail all
    # for one request in 165, these thirty for one in four million. The delays add up to 3.3 minutes.
    "GCS_RETRY_CONFIG_MAX_RETRIES": "30",
    "GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "100000",  # doubled each time,
    "GCS_RETRY_CONFIG_MAX_DELAY_TIME_US": "8000000",  # up to this
}


def set_tensorflow_defaults() -> None:
    """Sets TENSORFLOW_DEFAULTS in this process and in those that it will start, for good."""
    for name, value in TENSORFLOW_DEFAULTS.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def tensorflow_defaults() -> Iterator[None]:
    """Sets TENSORFLOW_DEFAULTS while this is entered, and restores the environment."""
    added = TENSORFLOW_DEFAULTS.keys() - os.environ.keys()
    set_tensorflow_defaults()
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
