"""Eight virtual CPU devices for every test, and the folder of real clips where there is one."""

import os
import pathlib

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
# The programs are tiny and compiling them takes most of the time: without optimisation that is two to three times less.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import pytest  # noqa: E402 - the environment must be set before anything imports JAX or TensorFlow

from data_pipelines import environment  # noqa: E402

environment.set_tensorflow_defaults()


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder with UCF101, ARID and CIFAR-10 samples that COVER_TEST_DATA names."""
    folder = os.environ.get("COVER_TEST_DATA", "")
    if not folder:
        pytest.skip("COVER_TEST_DATA is not set: no folder of real clips to test with")
    return pathlib.Path(folder)
