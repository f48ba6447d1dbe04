"""Trains or evaluates a config: `python -m cover_jax.main --config=configs/demo.py --workdir=/tmp/cover_demo`."""

import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from cover_jax import config as config_lib
from data_pipelines import catalog

_CONFIG = config_flags.DEFINE_config_file("config", help_string="A file of configs/, as FILE or FILE:ARGUMENT.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, curves and logs, local or gs://.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "Train (or continue), or only evaluate the newest.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Several hosts that find each other by themselves (TPU, SLURM).")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where hosts do not find each other.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", 1, "How many processes there are, with --coordinator.")
_PROCESS_ID = flags.DEFINE_integer("process_id", 0, "Which of them this is, with --coordinator.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"arguments that are no flags: {' '.join(argv[1:])}")
    config = _CONFIG.value
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # what the libraries note on their way would bury the run's own lines
    try:
        config_lib.validate(config)
        _check_prepared(config)
        _start_distributed()
        _run(config)
    except (config_lib.ConfigError, catalog.DatasetNotPreparedError) as error:
        sys.exit(f"error: {error}")


def _check_prepared(config) -> None:
    for dataset in config.datasets.values():
        if not catalog.is_self_contained(dataset.builder):
            catalog.dataset_dir(dataset.builder, config.data_dir)


def _start_distributed() -> None:
    if _COORDINATOR.value:
        jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    elif _DISTRIBUTED.value:
        jax.distributed.initialize()


def _run(config) -> None:
    # Here and not above: it brings TensorFlow, which takes longer to load than a wrong config should take to fail.
    from cover_jax import train

    if _MODE.value == "train":
        train.train(config, _WORKDIR.value)
    else:
        train.evaluate_checkpoint(config, _WORKDIR.value)


if __name__ == "__main__":
    app.run(main)
