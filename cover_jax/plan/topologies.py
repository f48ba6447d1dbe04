"""TPU pods for the compiler. No TPU is needed, only `pip install libtpu`."""

import math
import os
import re

import jax
from jax.experimental import topologies

from cover_jax.errors import ConfigError
from cover_jax.parallel import chips
from data_pipelines import escaping

_TOPOLOGY = r"(\w+):([1-9]\d*(?:x[1-9]\d*){1,2})(?:\*([1-9]\d*))?"  # generation, shape, slices


class TopologyError(ConfigError):
    """The topology's name is invalid, or no TPU compiler is installed. The message says what is expected."""


def parse(topology: str) -> tuple[chips.Chip, int]:
    """The chip and the number of chips of a name such as "v5e:16x16", or "v5e:16x16*4" for four such slices.

    Raises:
        TopologyError: the name is not GENERATION:AxB or GENERATION:AxBxC, with or without *SLICES, and a generation
            of `CHIPS`.
    """
    match = re.fullmatch(_TOPOLOGY, topology)
    if match is None or match[1] not in chips.CHIPS:
        raise TopologyError(
            f"--topology={topology}: must be GENERATION:SHAPE with a generation of {', '.join(chips.CHIPS)}, for "
            "example v5e:16x16 or v5p:4x4x4, or several such slices, v5e:16x16*4"
        )
    return chips.CHIPS[match[1]], math.prod(map(int, match[2].split("x"))) * int(match[3] or 1)


def use_compiler_only(dump_folder: str) -> None:
    """Makes libtpu a quiet compiler that writes its schedules to `dump_folder`. Call it before JAX is first used.

    A process keeps the settings from the time when it loaded libtpu.
    """
    settings = {
        "TPU_SKIP_MDS_QUERY": "1",  # otherwise it queries a cloud machine's metadata
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # a placeholder; each topology has its own
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # the compiler needs no chip, so several may run at once
        "TPU_MIN_LOG_LEVEL": "3",
        "TPU_STDERR_LOG_LEVEL": "3",
        # The only source of the cost of a Pallas kernel.
        "LIBTPU_INIT_ARGS": f"--xla_jf_dump_to={dump_folder} --xla_jf_dump_llo_text=true "
        "--xla_jf_dump_llo_pass_label_regex=final_bundles",
    }
    os.environ.update(settings)
    jax.config.update("jax_platforms", "cpu")


def devices(topology: str) -> list[jax.Device]:
    """The devices of a topology, as compile targets: chips, or two per TPU7x chip. They cannot run anything.

    Raises:
        TopologyError: as in `parse`, or the compiler does not know the shape, or libtpu is not installed.
    """
    parse(topology)
    match = re.fullmatch(_TOPOLOGY, topology)
    assert match  # `parse` has read it
    generation, shape, slices = match.groups()
    options: dict[str, object] = {"num_slices": int(slices)} if slices else {}
    if generation == "v4":
        options["chip_config_name"] = "megacore"  # one device per chip, as on a TPU VM
    if set(shape.split("x")) == {"1"}:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return topologies.get_topology_desc(f"{generation}:{shape}", "tpu", **options).devices
    except Exception as error:  # RuntimeError, ValueError or JaxRuntimeError, depending on the cause
        raise TopologyError(
            f"--topology={topology}: {escaping.one_line(error)}; the plan needs the TPU compiler (pip install "
            "'cover-jax[plan]') and an existing shape, for example v4:4x4x4, v5e:16x16, v5p:4x4x4, v6e:16x16, "
            "tpu7x:4x4x4"
        ) from error
