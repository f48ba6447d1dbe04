"""A run's cost before it is paid: memory, time and MFU of a config on TPU pods, from the TPU compiler, with no TPU.

    python -m cover_jax.plan --config=configs/cover_l.py --topology=v5e:16x16
    python -m cover_jax.plan --config=configs/cover_l.py --topology=v5e:16x16 --topology=v5p:4x4x4 --clips_per_chip=1,2

cover_jax/plan/README.md says what the figures mean and how far to trust them.
"""

import copy
import dataclasses
import json
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from cover_jax.config import checks
from cover_jax.config import flags as cover_flags
from cover_jax.errors import ConfigError
from cover_jax.plan import compiler, topologies
from cover_jax.plan.table import Plan, report

_CONFIG = config_flags.DEFINE_config_file("config", help_string="A file of configs/, as FILE or FILE:ARGUMENT.")
_TOPOLOGY = flags.DEFINE_multi_string("topology", None, "TPU slice, such as v5e:16x16; may be given several times.")
_CLIPS = flags.DEFINE_list("clips_per_chip", [], "Clips a chip of the dataset with the longest clips, such as 1,2,4; "
                           "other batches keep their ratio. Without it: the config's batch sizes.")  # fmt: skip
_MESH = flags.DEFINE_list("mesh", [], "DATAxFSDPxTENSOR, such as -1x8x1,-1x1x1. Without it: the config's mesh.")
_DATASETS = flags.DEFINE_list("datasets", [], "Only the steps on these of the config's datasets. Without it: all.")
_EVALUATION = flags.DEFINE_bool("evaluation", False, "Compile the evaluation steps too.")
_JSON = flags.DEFINE_string("json", None, "Also write everything to this file.")
flags.mark_flags_as_required(["config", "topology"])


def _with_datasets(config: ConfigDict, names: list[str]) -> ConfigDict:
    """The config with these of its datasets alone; all without a name.

    Raises:
        ConfigError: there is none of such a name.
    """
    if unknown := [name for name in names if name not in config.datasets]:
        raise ConfigError(f"--datasets={','.join(unknown)}: the config has {', '.join(config.datasets)}")
    config = copy.deepcopy(config)
    with config.unlocked():
        for name in list(config.datasets) if names else []:
            if name not in names:
                del config.datasets[name]
    return config


def _configs(config: ConfigDict, topology: str) -> list[ConfigDict]:
    """The config in each batch size and mesh that the flags ask for.

    Raises:
        ConfigError: a flag that is no such thing.
    """
    sized = [compiler.scale_batches(config, topology, _clips(text)) for text in _CLIPS.value] or [config]
    found = []
    for one in sized:
        for mesh in _MESH.value or [None]:
            one = copy.deepcopy(one)
            if mesh is not None:
                one.mesh.data, one.mesh.fsdp, one.mesh.tensor = _axes(mesh)
            found.append(one)
    return found


def _clips(text: str) -> int:
    if re.fullmatch(r"[1-9]\d*", text) is None:
        raise ConfigError(f"--clips_per_chip={text}: must be numbers of clips, such as 1,2,4")
    return int(text)


def _axes(text: str) -> tuple[int, int, int]:
    if re.fullmatch(r"(-1|[1-9]\d*)(x(-1|[1-9]\d*)){2}", text) is None:
        raise ConfigError(f"--mesh={text}: must be DATAxFSDPxTENSOR, such as -1x8x1; -1 once: all that are left")
    data, fsdp, tensor = map(int, text.split("x"))
    return data, fsdp, tensor


def _make_plans(config: ConfigDict, folder: pathlib.Path) -> Iterator[Plan]:
    """A plan for each row that the flags ask for."""
    wanted = [(topology, one) for topology in _TOPOLOGY.value for one in _configs(config, topology)]
    for number, (topology, one) in enumerate(wanted, 1):
        print(f"compiling for {topology}, row {number} of {len(wanted)} ...", file=sys.stderr, flush=True)
        yield compiler.make_plan(one, topology, folder, _EVALUATION.value)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"arguments that are no flags: {' '.join(argv[1:])}")
    plans = []
    with tempfile.TemporaryDirectory() as folder:
        topologies.use_compiler_only(folder)
        try:
            checks.validate(_CONFIG.value)
            for plan in _make_plans(_with_datasets(_CONFIG.value, _DATASETS.value), pathlib.Path(folder)):
                plans.append(plan)
                if _JSON.value:  # after each, since the next one takes minutes and may fail
                    found = [dataclasses.asdict(plan) for plan in plans]
                    pathlib.Path(_JSON.value).write_text(json.dumps(found, indent=2))
        except (ConfigError, topologies.TopologyError) as error:
            sys.exit(f"error: {error}")
    print(report(_CONFIG.value, plans))


if __name__ == "__main__":
    app.run(main, flags_parser=cover_flags.parse_flags)
