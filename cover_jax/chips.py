"""TPU chips in one table, and their pods as the compiler knows them: no TPU is needed, only `pip install libtpu`."""

import dataclasses
import math
import os
import re

import jax
from jax.experimental import topologies

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation of TPU.

    Attributes:
      hbm_gib: memory of a chip.
      hbm_gbps: its bandwidth, 10^9 bytes a second.
      peak_tflops: bfloat16 matrix products.
      links: inter-chip links of a chip; a torus has two an axis.
      ici_gbps: all links together, one way, 10^9 bytes a second.
      cores: TensorCores, which the compiler uses as one (megacore).
      mxu_macs: multiply-adds a clock, all matrix units together. With the peak it gives the clock.
      source: where the figures stand.
    """

    hbm_gib: float
    hbm_gbps: float
    peak_tflops: float
    links: int
    ici_gbps: float
    cores: int
    mxu_macs: int
    source: str

    @property
    def clock_hz(self) -> float:
        return self.peak_tflops * 1e12 / (2 * self.mxu_macs)

    @property
    def axis_bytes_s(self) -> float:
        """What a ring along one axis of the torus moves: it uses both directions of a link."""
        return 2 * self.ici_gbps * 1e9 / self.links


# v6e: its page has named both 2 and 4 matrix units; only 4 fit the compiler's estimate of a large product.
CHIPS = {
    "v4": Chip(32, 1200, 275, 6, 300, 2, 8 * 128**2, "cloud.google.com/tpu/docs/v4; links: arXiv 2304.01433, table 4"),
    "v5e": Chip(16, 819, 197, 4, 200, 1, 4 * 128**2, "cloud.google.com/tpu/docs/v5e"),
    "v5p": Chip(95, 2765, 459, 6, 600, 2, 8 * 128**2, "cloud.google.com/tpu/docs/v5p"),
    "v6e": Chip(32, 1640, 918, 4, 448, 1, 4 * 256**2, "cloud.google.com/tpu/docs/v6e"),
}


# Device kind, as JAX names it (`jax.devices()[0].device_kind`), by its beginning -> TFLOP/s of bfloat16 matrix products
# without sparsity. TPUs: as JAX itself tells their kinds apart (jax/_src/pallas/mosaic/tpu_info.py). GPUs: NVIDIA's
# data sheets, whose figures with sparsity are twice as high.
_PEAK_TFLOPS = {
    "TPU v4": CHIPS["v4"].peak_tflops,
    "TPU v5 lite": CHIPS["v5e"].peak_tflops,
    "TPU v5e": CHIPS["v5e"].peak_tflops,
    "TPU v5": CHIPS["v5p"].peak_tflops,
    "TPU v6": CHIPS["v6e"].peak_tflops,
    "NVIDIA A100": 312,
    "NVIDIA H100 80GB HBM3": 989,
    "NVIDIA H200": 989,
}


def peak_flops(devices: list[jax.Device]) -> float | None:
    """Operations a second of all devices together, bfloat16 matrix products; None where their kind is not known."""
    kind = devices[0].device_kind
    for beginning, tflops in _PEAK_TFLOPS.items():
        if kind.startswith(beginning) and kind != "TPU v4 lite":
            return len(devices) * tflops * 1e12
    return None


_TOPOLOGY = r"(\w+):([1-9]\d*(?:x[1-9]\d*){1,2})(?:\*([1-9]\d*))?"  # generation, shape, slices


class TopologyError(ValueError):
    """The topology's name means nothing, or no compiler for TPUs is installed. The message says what would be right."""


def parse(topology: str) -> tuple[Chip, int]:
    """The chip and the number of chips of a name such as "v5e:16x16", or of four such slices, "v5e:16x16*4".

    Raises:
      TopologyError: the name is not GENERATION:AxB or AxBxC with a generation of `CHIPS`, or that with *SLICES.
    """
    match = re.fullmatch(_TOPOLOGY, topology)
    if match is None or match[1] not in CHIPS:
        raise TopologyError(
            f"--topology={topology}: must be GENERATION:SHAPE with a generation of {', '.join(CHIPS)}, for example "
            "v5e:16x16 or v5p:4x4x4, or several such slices, v5e:16x16*4"
        )
    return CHIPS[match[1]], math.prod(map(int, match[2].split("x"))) * int(match[3] or 1)


def use_compiler_only(dump_folder: str) -> None:
    """Makes libtpu a quiet compiler that notes its schedules in `dump_folder`; before JAX is first used.

    A process that has loaded libtpu keeps the settings it had then.
    """
    settings = {
        "TPU_SKIP_MDS_QUERY": "1",  # or it looks for a cloud machine's metadata
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # of this "machine"; each topology brings its own
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # the compiler needs no chip, so that several may run at a time
        "TPU_MIN_LOG_LEVEL": "3",
        "TPU_STDERR_LOG_LEVEL": "3",
        # The only place where the cost of a Pallas kernel can be read.
        "LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={dump_folder} --xla_jf_dump_llo_text=true "
        "--xla_jf_dump_llo_pass_label_regex=final_bundles",
    }
    os.environ.update(settings)
    jax.config.update("jax_platforms", "cpu")


def devices(topology: str) -> list[jax.Device]:
    """The chips of a topology, to compile for but not to run on.

    Raises:
      TopologyError: as in `parse`, or the compiler does not know the shape, or libtpu is not installed.
    """
    parse(topology)
    generation, shape, slices = re.fullmatch(_TOPOLOGY, topology).groups()
    options = {"num_slices": int(slices)} if slices else {}
    if generation == "v4":
        options["chip_config_name"] = "megacore"  # one device a chip, as on a TPU VM
    if set(shape.split("x")) == {"1"}:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return topologies.get_topology_desc(f"{generation}:{shape}", "tpu", **options).devices
    except Exception as error:  # no class of its own: RuntimeError, ValueError or JaxRuntimeError, by the cause
        raise TopologyError(
            f"--topology={topology}: {error}\nThe plan needs the TPU compiler (pip install 'cover-jax[plan]') and a "
            "shape that is sold, such as v4:4x4x4, v5e:16x16, v5p:4x4x4, v6e:16x16"
        ) from error
