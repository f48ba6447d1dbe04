"""Trains a config, continues its training, evaluates it, or rehearses it.

    python -m cover_jax.main --config=configs/demo.py --workdir=/tmp/cover_demo
    python -m cover_jax.main --config=configs/demo.py --workdir=/tmp/cover_demo --mode=evaluate
    python -m cover_jax.main --config=configs/demo.py --workdir=/tmp/cover_demo --mode=rehearse

Run the same command again to continue from WORKDIR's newest checkpoint. On SIGTERM to any host, all hosts save the same
step and exit with code 42. All exit codes: cover_jax/fault_tolerance/README.md.
"""

import argparse
import sys
import time
import traceback
from typing import NoReturn

import jax
from absl import flags
from etils import epath

from cover_jax import errors
from cover_jax.config import checks, notices, schema
from cover_jax.config import flags as cover_flags
from cover_jax.errors import ConfigError
from cover_jax.evaluation import comparison
from cover_jax.fault_tolerance import process, statements, workdir_lease
from cover_jax.parallel import backend, compilation, hosts, roll_call, sharding
from data_pipelines import catalog, command_line, escaping

_PEER_NEWS_S = 1.0  # time until this host knows that another host has ended
_JAX_GIVES_UP_S = 600  # added to the longest of config.timeouts


# Errors that the user can fix. The message says how; a traceback would hide it.
_USER_ERRORS = (
    ConfigError, catalog.DatasetNotPreparedError, FileNotFoundError, NotADirectoryError, PermissionError,
)  # fmt: skip


def _parser() -> command_line.Parser:
    parser = command_line.Parser("cover_jax.main", __doc__)
    cover_flags.add_config(parser)
    cover_flags.add_run(parser, needs_workdir=True)
    parser.add_shared("out", help="JSON file of --mode=rehearse (WORKDIR.rehearsal.json)")
    return parser


def _parse(arguments: list[str]) -> argparse.Namespace:
    args = cover_flags.parse(_parser(), arguments)
    if args.data_dir:
        args.config.data_dir = args.data_dir
    return args


@command_line.command()
def main(arguments: list[str]) -> None:
    """Runs the command and ends the process."""
    process.exit_command(run(_parse(arguments)))


def run(args: argparse.Namespace) -> int:
    """Trains or evaluates, and returns the exit code. An error ends the process and all other hosts.

    All process settings that `process.guarded_process` lists are restored afterwards. JAX keeps the compilation cache.
    """
    quiet = not flags.FLAGS["verbosity"].present
    preemptible, cleans_up = args.mode == "train", args.mode == "rehearse"
    with process.guarded_process(preemptible=preemptible, quiet=quiet, cleans_up=cleans_up) as guard:
        try:
            problem = _problem(args)
            _find_hosts(guard, args, problem)  # before anything that may fail on only one host
            sharding.make_mesh(args.config.mesh)
            _check_folders(args)
            for line in notices.of(args.config):
                hosts.print_on_host0(line)
            if args.mode != "rehearse":  # a rehearsal checks its scratch folder, and leaves the workdir as it is
                workdir_lease.check_is_shared(args.workdir, needs_writing=args.mode == "train")
            return _rehearse(args) if args.mode == "rehearse" else _train_or_evaluate(args)
        except process.TerminatedError as terminated:
            process.end_all_hosts(terminated.exit_code, str(terminated))
        except Exception as error:
            _end(error)


def _coordinator(args: argparse.Namespace) -> hosts.Coordinator | None:
    """How the hosts find each other; None: JAX knows it, or there are no others."""
    if not args.coordinator:
        if (args.num_processes, args.process_id) != (1, 0):
            raise ConfigError("--num_processes, --process_id: need --coordinator=HOST:PORT, the address of process 0")
        return None
    by_hand = hosts.Coordinator(args.coordinator, args.num_processes, args.process_id)
    roll_call.check(by_hand)
    return by_hand


def _problem(args: argparse.Namespace) -> ConfigError | None:
    """What is wrong with the config. With other hosts it is only printed, until they know it too."""
    try:
        checks.validate(args.config)
    except ConfigError as error:
        if not (args.coordinator or args.distributed):
            raise
        print(f"error: {error}; this ends the other hosts, too, once they are found", file=sys.stderr, flush=True)
        return error
    return None


def _find_hosts(guard: process.ProcessGuard, args: argparse.Namespace, problem: ConfigError | None) -> None:
    timeouts = schema.get_config().timeouts if problem else args.config.timeouts
    guard.start_watchdog(timeouts)
    by_hand = _coordinator(args)
    if by_hand or args.distributed:
        # JAX aborts a host that finds no other host, or whose heartbeat stops. The peer monitor (host is gone) and the
        # watchdog (host hangs) act sooner and report a reason.
        timeout_s = round(max(timeouts.values())) + _JAX_GIVES_UP_S
        guard.connect_hosts(by_hand, timeout_s)
    if problem:
        raise problem
    hosts.agree(statements.of_command(dict(checks.flatten(args.config)), args.mode))  # before it takes any time
    hosts.agree(statements.of_devices())
    process.enter_phase("start")


def _check_folders(args: argparse.Namespace) -> None:
    config = args.config
    folders = {"config.data_dir": config.data_dir}
    if jax.process_index() == 0:  # the other hosts leave it alone until it is there, see `check_is_shared`
        folders["--workdir"] = args.workdir
    for name, value in folders.items():
        if value and epath.Path(value).is_file():
            raise ConfigError(f"{name}={value}: is a file; it must be a folder, which is created if missing")
    if config.compare_with and jax.process_index() == 0:
        _check_compare_with(args)
    if args.mode != "rehearse":  # a rehearsal names what is not prepared together with all else that is wrong
        without_list = [dataset.builder for dataset in config.datasets.values() if not dataset.list_of_files]
        catalog.require_prepared(without_list, config.data_dir)


def _check_compare_with(args: argparse.Namespace) -> None:
    # Imported here because orbax loads slowly, and a wrong config should fail fast.
    from cover_jax.checkpoint import layout

    try:
        comparison.check(args.config)
    except ConfigError as error:
        if args.mode == "evaluate" or not layout.saved_steps(args.workdir):
            raise
        hosts.print_on_host0(f"WARNING: {error}")  # a folder deleted since the run started does not stop the run


def _end(error: Exception) -> NoReturn:
    """Ends all hosts with the exit code of an error. Its message is the last line. Does not return."""
    if too_large := backend.describe_out_of_memory(error):
        error = ConfigError(too_large)
    code = errors.CONFIG if isinstance(error, _USER_ERRORS) else getattr(error, "exit_code", errors.FAILED)
    message = str(error)
    if code == errors.FAILED:
        traceback.print_exception(error)
        message = escaping.one_line("".join(traceback.format_exception_only(error)))  # the last line
    if jax.distributed.is_initialized():
        time.sleep(_PEER_NEWS_S)  # another host's end may be the cause; that host reports it
    process.end_all_hosts(code, message)


def _train_or_evaluate(args: argparse.Namespace) -> int:
    """Trains or evaluates, and returns the exit code of a run that ended without an error."""
    # Imported here because it loads TensorFlow, which is slow, and a wrong config should fail fast.
    from cover_jax.training import loop

    if args.config.compilation_cache:
        compilation.keep_compiled(str(epath.Path(args.workdir) / "compilation_cache"))
    if args.mode == "evaluate":
        loop.evaluate_checkpoint(args.config, args.workdir)
        return errors.DONE
    with workdir_lease.hold(args.workdir):
        try:
            loop.train(args.config, args.workdir)
        except loop.PreemptedError as stopped:
            hosts.print_on_host0(str(stopped))
            return stopped.exit_code
    return errors.DONE


def _rehearse(args: argparse.Namespace) -> int:
    """Rehearses the run, and returns the exit code of a run that would work."""
    # Imported here as above.
    from cover_jax.rehearsal import rehearse

    rehearse.rehearse(args.config, args.workdir, args.out or "")
    return errors.DONE


if __name__ == "__main__":
    main(sys.argv[1:])
