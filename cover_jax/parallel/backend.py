"""Starts JAX's backend, and says in one line why that fails, before any file is opened that could be blamed for it."""

import re
from typing import Any

import jax

from cover_jax.errors import ConfigError

# What the reason says -> what would be right.
_REMEDIES = {
    r"in use|lockfile|busy": "another process uses them; end it, or wait for its end",
    r"RESOURCE_EXHAUSTED|out of memory": "their memory is taken; end the process that holds it",
}
_MISSING = (
    "there are none on this machine, or JAX's package for them is not installed; "
    "unset JAX_PLATFORMS to use what is there"
)


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
