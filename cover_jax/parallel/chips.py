"""TPU chips and GPUs: peak arithmetic, memory, links, each with its source."""

import dataclasses

import jax

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation of TPU. All values are per chip; JAX may show a chip as several devices.

    Attributes:
        hbm_gib: memory per chip.
        hbm_gbps: memory bandwidth, 10^9 bytes per second.
        peak_tflops: peak TFLOP/s of bfloat16 matrix products.
        links: inter-chip links per chip; a torus has two per axis.
        ici_gbps: bandwidth of all links together, one direction, 10^9 bytes per second.
        cores: TensorCores, which the compiler uses as one (megacore).
        mxu_macs: multiply-adds per clock cycle of all matrix units. The clock rate follows from it and the peak.
        source: source of the values.
        devices: devices that JAX shows per chip. They share memory, peak, bandwidth and links equally.
    """

    hbm_gib: float
    hbm_gbps: float
    peak_tflops: float
    links: int
    ici_gbps: float
    cores: int
    mxu_macs: int
    source: str
    devices: int = 1

    @property
    def clock_hz(self) -> float:
        """Clock rate of the matrix units: each cell does one multiply-add per cycle."""
        return self.peak_tflops * 1e12 / (2 * self.mxu_macs)

    @property
    def axis_bytes_s(self) -> float:
        """Bandwidth of a ring along one axis of the torus. It uses both directions of a link."""
        return 2 * self.ici_gbps * 1e9 / self.links


# v6e: its page has named both 2 and 4 matrix units; only 4 fit the compiler's estimate of a large product.
# TPU7x: the page does not state matrix units; only 4 per TensorCore fit the compiler's estimate of a large product
# (81 % of the peak). JAX shows each of a chip's two chiplets, with one TensorCore, as a device.
CHIPS = {
    "v4": Chip(32, 1200, 275, 6, 300, 2, 8 * 128**2, "cloud.google.com/tpu/docs/v4; links: arXiv 2304.01433, table 4"),
    "v5e": Chip(16, 819, 197, 4, 200, 1, 4 * 128**2, "cloud.google.com/tpu/docs/v5e"),
    "v5p": Chip(95, 2765, 459, 6, 600, 2, 8 * 128**2, "cloud.google.com/tpu/docs/v5p"),
    "v6e": Chip(32, 1640, 918, 4, 448, 1, 4 * 256**2, "cloud.google.com/tpu/docs/v6e"),
    "tpu7x": Chip(192, 7380, 2307, 6, 600, 2, 8 * 256**2, "docs.cloud.google.com/tpu/docs/tpu7x", devices=2),
}


# Prefix of JAX's device kind (`jax.devices()[0].device_kind`) -> TFLOP/s of bfloat16 matrix products without sparsity.
# TPUs: JAX distinguishes them by the same kinds (jax/_src/pallas/mosaic/tpu_info.py). GPUs: NVIDIA's data sheets,
# whose values with sparsity are twice as high.
_PEAK_TFLOPS = {
    "TPU v4": CHIPS["v4"].peak_tflops,
    "TPU v5 lite": CHIPS["v5e"].peak_tflops,
    "TPU v5e": CHIPS["v5e"].peak_tflops,
    "TPU v5": CHIPS["v5p"].peak_tflops,
    "TPU v6": CHIPS["v6e"].peak_tflops,
    "TPU7x": CHIPS["tpu7x"].peak_tflops / CHIPS["tpu7x"].devices,
    "NVIDIA A100": 312,
    "NVIDIA H100 80GB HBM3": 989,
    "NVIDIA H200": 989,
}


_KINDS = {
    "TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v6": "v6e", "TPU7x": "tpu7x",
}  # fmt: skip


def find(device: jax.Device) -> Chip | None:
    """The chip of a TPU device; None for other devices and for unknown chips."""
    kind = device.device_kind
    named = next((name for beginning, name in _KINDS.items() if kind.startswith(beginning)), None)
    return CHIPS[named] if named and kind != "TPU v4 lite" else None


def peak_flops(devices: list[jax.Device]) -> float | None:
    """Peak operations per second of all devices, bfloat16 matrix products; None if the device kind is unknown."""
    kind = devices[0].device_kind
    for beginning, tflops in _PEAK_TFLOPS.items():
        if kind.startswith(beginning) and kind != "TPU v4 lite":
            return len(devices) * tflops * 1e12
    return None
