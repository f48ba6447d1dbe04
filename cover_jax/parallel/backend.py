"""Starts JAX's backend, and says in one line why that fails, before any file is opened that could be blamed for it.

Also what a config leaves to the devices: the type of activations; and what to change if their memory is too small.
"""

import copy
import re
from typing import Any

import jax
from ml_collections import ConfigDict

from cover_jax.errors import ConfigError

# What the reason says -> what would be right.
_REMEDIES = {
    r"in use|lockfile|busy": "another process uses them; end it, or wait for its end",
    r"RESOURCE_EXHAUSTED|out of memory": "their memory is taken; end the process that holds it",
}
_BFLOAT16_CAPABILITY = 8.0  # Ampere, the first with bfloat16 matrix products: NVIDIA's CUDA C++ Programming Guide
_MISSING = (
    "there are none on this machine, or JAX's package for them is not installed; "
    "unset JAX_PLATFORMS to use what is there"
)
_SHOWN_CHARACTERS = 300


class BackendError(ConfigError):
    """JAX cannot use the devices that it was told to use."""


def start() -> list[jax.Device]:
    """All devices. Does nothing but return them if the backend has started.

    Raises:
        BackendError: a device is missing or taken.
    """
    try:
        return jax.devices()
    except Exception as error:  # JAX raises RuntimeError, and AssertionError without a text
        config: Any = jax.config  # not all of jax's versions declare its settings
        platforms = config.jax_platforms or "automatic"
        reason = re.sub(r" *\(set JAX_PLATFORMS=.*?\)", "", (str(error).splitlines() or [""])[0])
        remedies = [remedy for said, remedy in _REMEDIES.items() if re.search(said, reason, re.IGNORECASE)]
        raise BackendError(
            f"JAX_PLATFORMS={platforms}: JAX cannot use these devices: {reason or 'no reason given'}; "
            f"{(remedies or [_MISSING])[0]}"
        ) from error


def with_dtype(config: ConfigDict, device: jax.Device) -> ConfigDict:
    """The config of a run with `config.model.dtype` decided: 'auto' is what `device` computes fast.

    Hosts with devices of one kind decide the same.
    """
    if config.model.dtype != "auto":
        return config
    config = copy.deepcopy(config)
    config.model.dtype = fast_dtype(device)
    return config


def fast_dtype(device: jax.Device) -> str:
    """'bfloat16' on a TPU and on GPUs of NVIDIA from Ampere on; 'float32' on a CPU and on other GPUs, such as a T4."""
    capability = re.match(r"\d+\.\d+", str(getattr(device, "compute_capability", "")))
    fast = device.platform == "tpu" or (capability and float(capability[0]) >= _BFLOAT16_CAPABILITY)
    return "bfloat16" if fast else "float32"


def describe_out_of_memory(error: BaseException) -> str:
    """What to change if a program needed more memory than a device has; "" for any other error.

    The compiler, too, raises this error: on a TPU it knows what a program needs.
    """
    reason = (str(error).splitlines() or [""])[0]
    is_memory = "RESOURCE_EXHAUSTED" in reason and re.search(r"memory|hbm|vmem|alloc", reason, re.IGNORECASE)
    if not isinstance(error, jax.errors.JaxRuntimeError) or not is_memory:
        return ""
    return (
        f"a device has too little memory: {reason[:_SHOWN_CHARACTERS]}; use a smaller config.datasets.NAME.batch_size "
        "(in evaluation eval_batch_size), config.model.remat=full, or a larger config.mesh.fsdp or config.mesh.tensor; "
        "on a GPU, end other processes that hold its memory"
    )
