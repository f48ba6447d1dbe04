"""config.model.dtype='auto' is what the device computes fast, decided once."""

import types

import jax
import pytest

from configs import common
from cover_jax.parallel import backend

DEVICES = [
    ("tpu", None, "bfloat16"),
    ("gpu", "8.0", "bfloat16"),  # A100
    ("gpu", "9.0", "bfloat16"),  # H100
    ("gpu", "12.0", "bfloat16"),
    ("gpu", "7.5", "float32"),  # T4
    ("gpu", "gfx942", "float32"),
    ("cpu", None, "float32"),
]


@pytest.mark.parametrize(("platform", "capability", "dtype"), DEVICES)
def test_auto_is_the_devices_fast_type(platform, capability, dtype):
    device = types.SimpleNamespace(platform=platform, **({"compute_capability": capability} if capability else {}))
    config = common.get_config()
    config.model.dtype = "auto"
    assert backend.with_dtype(config, device).model.dtype == dtype
    assert config.model.dtype == "auto"


def test_a_type_that_is_given_stays():
    config = common.get_config()
    assert backend.with_dtype(config, jax.devices()[0]) is config and config.model.dtype == "bfloat16"
