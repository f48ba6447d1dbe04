"""Trains or evaluates a config: `python -m cover_jax.main --config=configs/demo.py --workdir=/tmp/cover_demo`.

SIGTERM while it trains, to any of its hosts: all save the same step and exit with code 42.
"""

import os
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
# Until the others notice a host that is gone; JAX's own default is 100.
_HEARTBEAT_TIMEOUT_S = 30
_PREEMPTED_EXIT_CODE = 42  # saved and ended on SIGTERM: the same command goes on
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"arguments that are no flags: {' '.join(argv[1:])}")
    config = _CONFIG.value
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # what the libraries note on their way would bury the run's own lines
    try:
        config_lib.validate(config)
        _start_distributed()  # before anything that may fail on one host alone
        _check_prepared(config)
        _run(config)
    except (config_lib.ConfigError, catalog.DatasetNotPreparedError) as error:
        if jax.distributed.is_initialized():
            raise
        sys.exit(f"error: {error}")


def _check_prepared(config) -> None:
    for dataset in config.datasets.values():
        if not catalog.is_self_contained(dataset.builder):
            catalog.dataset_dir(dataset.builder, config.data_dir)


def _start_distributed() -> None:
    if not (_COORDINATOR.value or _DISTRIBUTED.value):
        return
    by_hand = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value) if _COORDINATOR.value else ()
    jax.distributed.initialize(*by_hand, heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT_S)
    sys.excepthook = _end_at_once


def _end_at_once(*exception) -> None:
    """An excepthook: an orderly exit would wait for the other hosts, and they for this one, 300 s long."""
    sys.__excepthook__(*exception)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _run(config) -> None:
    # Here and not above: it brings TensorFlow, which takes longer to load than a wrong config should take to fail.
    from cover_jax import train

    if _MODE.value == "evaluate":
        train.evaluate_checkpoint(config, _WORKDIR.value)
        return
    try:
        train.train(config, _WORKDIR.value)
    except train.PreemptedError as stopped:
        train.say(str(stopped))
        sys.exit(_PREEMPTED_EXIT_CODE)


if __name__ == "__main__":
    app.run(main)
