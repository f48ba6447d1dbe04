"""Memory of a device and of a host: what there is, and what was used at most."""

import os
import resource
import sys

import jax

from cover_jax.parallel import chips


def device_limit_gib(device: jax.Device) -> float:
    """Memory that programs can use on a device: by its driver, or of its chip; on a CPU its share of the RAM."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return float(stats["bytes_limit"] / chips.GIB)
    chip = chips.find(device)
    return chip.hbm_gib / chip.devices if chip else host_total_gib() / jax.local_device_count()


def device_peak_gib() -> float | None:
    """The most that was in use on one of this host's devices; None if they do not count it, as CPUs."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    known = [peak for peak in peaks if peak is not None]
    return max(known) / chips.GIB if known else None


def host_total_gib() -> float:
    """The host's RAM."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / chips.GIB


def host_peak_gib() -> float:
    """The most RAM that this process held (resident set)."""
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / chips.GIB
