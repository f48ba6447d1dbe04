"""Trains or evaluates a config: `python -m cover_jax.main --config=configs/demo.py --workdir=/tmp/cover_demo`.

SIGTERM to any of its hosts: all save the same step and exit with code 42. All exit codes:
cover_jax/fault_tolerance/README.md.
"""

import signal
import sys
import threading
import time
import traceback

import jax
from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from cover_jax import errors
from cover_jax.config import checks
from cover_jax.config import flags as cover_flags
from cover_jax.errors import ConfigError
from cover_jax.evaluation import comparison
from cover_jax.fault_tolerance import peers, preemption, tolerant_io, watchdog, workdir_lease
from cover_jax.parallel import compilation, hosts, sharding
from data_pipelines import catalog

_CONFIG = config_flags.DEFINE_config_file("config", help_string="A file of configs/, as FILE or FILE:ARGUMENT.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, curves and logs, local or gs://.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "Train (or continue), or only evaluate the newest.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Several hosts that find each other by themselves (TPU, SLURM).")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where hosts do not find each other.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", 1, "How many processes there are, with --coordinator.")
_PROCESS_ID = flags.DEFINE_integer("process_id", 0, "Which of them this is, with --coordinator.")
flags.mark_flags_as_required(["config", "workdir"])
_NEWS_S = 1.0  # until the end of another host is known here


# What the user can put right: the message says how, and a traceback would bury it.
_USER_ERRORS = (
    ConfigError, catalog.DatasetNotPreparedError, FileNotFoundError, NotADirectoryError, PermissionError,
)  # fmt: skip


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"arguments that are no flags: {' '.join(argv[1:])}")
    config = _CONFIG.value
    tolerant_io.tolerate_output_errors()
    signal.signal(signal.SIGINT, _interrupt)
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # what the libraries note on their way would bury the run's own lines
        tolerant_io.hide_orphaned_errors()
    if _MODE.value == "train":
        preemption.listen()
    try:
        checks.validate(config)
        _start_distributed(config.timeouts)  # before anything that may fail on one host alone
        sharding.make_mesh(config.mesh)
        _check_folders(config)
        code = _run(config)
    except Exception as error:
        _end(error)
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()  # which waits for all
        peers.leave()
    watchdog.stop()
    sys.exit(code)


def _interrupt(*_) -> None:
    """Ctrl-C. Not by KeyboardInterrupt, which is lost where it comes in a callback, and other hosts would wait."""
    cause = "interrupted; the same command goes on from the newest checkpoint"
    threading.Thread(target=peers.end, args=(errors.INTERRUPTED, cause), daemon=True).start()


def _check_folders(config) -> None:
    for name, value in (("--workdir", _WORKDIR.value), ("config.data_dir", config.data_dir)):
        if value and epath.Path(value).is_file():
            raise ConfigError(f"{name}={value}: is a file; it must be a folder, which is made if missing")
    if config.compare_with and jax.process_index() == 0:
        _check_compare_with(config)
    for dataset in config.datasets.values():
        if not catalog.is_self_contained(dataset.builder):
            catalog.dataset_dir(dataset.builder, config.data_dir)


def _check_compare_with(config) -> None:
    from cover_jax.checkpoint import (
        layout,  # here, as orbax takes longer to load than a wrong config should take to fail
    )

    try:
        comparison.check(config)
    except ConfigError as error:
        if _MODE.value == "evaluate" or not layout.saved_steps(_WORKDIR.value):
            raise
        hosts.print_on_host0(f"WARNING: {error}")  # a folder that has gone since the run began does not hold it up


def _start_distributed(timeouts) -> None:
    watchdog.start(timeouts)
    if _COORDINATOR.value or _DISTRIBUTED.value:
        by_hand = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value) if _COORDINATOR.value else ()
        # JAX aborts a host that finds no other, or whose heartbeat stops. The lifeline sees that one is gone, and the
        # watchdog that one hangs, sooner and with a reason.
        later_s = round(max(timeouts.values())) + 600
        jax.config.update("jax_enable_preemption_service", _MODE.value == "train")  # it takes SIGTERM to itself
        try:
            jax.distributed.initialize(*by_hand, initialization_timeout=later_s, heartbeat_timeout_seconds=later_s)
        except RuntimeError as error:
            raise hosts.LostPeerError(f"the hosts have not found each other: {error}") from error
        if _MODE.value == "train":
            preemption.hand_over()
        peers.start()
    watchdog.enter("start")


def _end(error: Exception) -> None:
    """Ends all hosts with the exit code of an error; its message is the last line. Does not return."""
    code = errors.CONFIG if isinstance(error, _USER_ERRORS) else getattr(error, "exit_code", errors.FAILED)
    message = str(error)
    if code == errors.FAILED:
        traceback.print_exception(error)
        message = " ".join("".join(traceback.format_exception_only(error)).split())  # one line, the last
    if jax.distributed.is_initialized():
        time.sleep(_NEWS_S)  # another host's end may be the reason, which it says itself
    peers.end(code, message)


def _run(config) -> int:
    """The exit code of a run that ended as it should."""
    # Here and not above: it brings TensorFlow, which takes longer to load than a wrong config should take to fail.
    from cover_jax.training import loop

    if config.compilation_cache:
        compilation.keep_compiled(str(epath.Path(_WORKDIR.value) / "compilation_cache"))
    if _MODE.value == "evaluate":
        loop.evaluate_checkpoint(config, _WORKDIR.value)
        return errors.DONE
    with workdir_lease.hold(_WORKDIR.value):
        try:
            loop.train(config, _WORKDIR.value)
        except loop.PreemptedError as stopped:
            hosts.print_on_host0(str(stopped))
            return stopped.exit_code
    return errors.DONE


if __name__ == "__main__":
    app.run(main, flags_parser=cover_flags.parse_flags)
