"""What a run changes in its process is owned by one context manager, and restored; imports change nothing."""

import faulthandler
import json
import logging
import os
import signal
import subprocess
import sys
import threading

import pytest
from absl import logging as absl_logging

from cover_jax import errors
from cover_jax.fault_tolerance import process
from data_pipelines import environment
from tests.helpers import jobs

TIMEOUT_S = 300
TIMEOUTS = {f"{name}_s": 60.0 for name in ("connect", "start", "compile", "step", "evaluation", "save", "exit")}


def process_state() -> dict:
    """All that `guarded_process` may change, as it is now."""
    return {
        "environment": dict(os.environ),
        "signal handlers": {number: signal.getsignal(number) for number in signal.Signals},
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook),
        "output": (sys.stdout, sys.stderr),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "faulthandler": faulthandler.is_enabled(),
        "umask": _umask(),
        "logging": (list(logging.root.handlers), logging.getLogger("asyncio").level, absl_logging.get_verbosity()),
    }


def _umask() -> int:
    os.umask(found := os.umask(0))
    return found


@pytest.fixture
def without_defaults(monkeypatch):
    """Without TensorFlow's variables, and with the umask of some containers, which lets all users write."""
    for name in environment.TENSORFLOW_DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    before = os.umask(0)
    yield
    os.umask(before)


def test_it_restores_all_and_may_be_entered_again(without_defaults):
    before = process_state()
    for _ in range(2):
        with process.guarded_process(preemptible=True, quiet=True) as guard:
            guard.start_watchdog(TIMEOUTS)
            process.enter_phase("step", "step 1")
            inside = process_state()
            assert [key for key in before if before[key] == inside[key]] == ["faulthandler"]  # pytest has it already
            assert "watchdog" in inside["threads"]
            assert inside["umask"] == 0o002
            assert environment.TENSORFLOW_DEFAULTS.items() <= inside["environment"].items()
            assert not process.preemption_is_reached()
            os.kill(os.getpid(), signal.SIGTERM)
            assert process.preemption_is_reached()
        assert process_state() == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_it_restores_all_after_an_exception(without_defaults):
    before = process_state()
    with pytest.raises(KeyError), process.guarded_process(preemptible=True, quiet=True) as guard:
        guard.start_watchdog(TIMEOUTS)
        raise KeyError
    assert process_state() == before


def test_it_cannot_be_entered_inside_itself():
    with (
        process.guarded_process(preemptible=False, quiet=False),
        pytest.raises(RuntimeError, match="already"),
        process.guarded_process(preemptible=False, quiet=False),
    ):
        pass


def test_what_the_user_has_set_in_the_environment_is_kept(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    with environment.tensorflow_defaults():
        assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"


def test_in_a_process_that_is_not_guarded_nothing_is_watched_and_nothing_reached():
    before = process_state()
    process.enter_phase("step", "step 1")
    assert not process.preemption_is_reached()
    assert process_state() == before


def run_script(script: str, *arguments: str, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S,
        env=os.environ | environment,
    )  # fmt: skip


HUNG = """
import time
from cover_jax.fault_tolerance import process
from tests.fault_tolerance.test_process import TIMEOUTS
with process.guarded_process(preemptible=True, quiet=True) as guard:
    guard.start_watchdog(TIMEOUTS | {"step_s": 1.0})
    process.enter_phase("step", "step 7")
    time.sleep(100)
"""


def test_a_phase_that_takes_too_long_ends_the_process_with_stacks():
    done = run_script(HUNG)
    assert done.returncode == errors.HUNG
    last_line = done.stderr.splitlines()[-1]
    assert "most recent call first" in done.stderr
    assert last_line.startswith(
        "error: hung: a step, its input included (step 7) took longer than config.timeouts.step_s=1;"
    )


SIGNALLED = """
import os, signal, sys, time
from cover_jax.fault_tolerance import process
with process.guarded_process(preemptible=sys.argv[1] == "train", quiet=True) as guard:
    for number in sys.argv[2:]:
        os.kill(os.getpid(), getattr(signal, number))
        while guard.preemptible and not process.preemption_is_reached():
            time.sleep(0.01)
    time.sleep(100 if not guard.preemptible or len(sys.argv) > 3 else 0)
    print("interrupted" if process.is_interrupted() else "preempted")
"""


@pytest.mark.parametrize(
    ("arguments", "code", "printed"),
    [
        (["train", "SIGHUP"], 0, "preempted\n"),
        (["train", "SIGINT"], 0, "interrupted\n"),
        (["train", "SIGINT", "SIGINT"], errors.INTERRUPTED, ""),
        (["evaluate", "SIGINT"], errors.INTERRUPTED, ""),
    ],
    ids=["SIGHUP", "Ctrl-C", "Ctrl-C twice", "Ctrl-C outside of training"],
)
def test_signals_save_once_and_end_at_the_second_ctrl_c(arguments, code, printed):
    done = run_script(SIGNALLED, *arguments)
    assert done.returncode == code, done.stderr
    assert done.stdout.endswith(printed)
    assert ("a second Ctrl-C ends it at once" in done.stdout) == (arguments[:2] == ["train", "SIGINT"])
    if code:
        assert done.stderr.splitlines()[-1].startswith("error: interrupted; the same command continues")


UNDER_NOHUP = """
import os, signal
from cover_jax.fault_tolerance import process
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with process.guarded_process(preemptible=True, quiet=True):
    os.kill(os.getpid(), signal.SIGHUP)
    print(process.preemption_is_reached())
"""


def test_under_nohup_a_run_goes_on_when_its_terminal_is_closed():
    done = run_script(UNDER_NOHUP)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


LATE = """
import atexit, os, signal, sys
from cover_jax.fault_tolerance import process
atexit.register(lambda: [os.kill(os.getpid(), number) for number in (signal.SIGTERM, signal.SIGINT)])
with process.guarded_process(preemptible=True, quiet=True):
    pass
process.exit_command(42)
"""


def test_a_signal_during_the_last_moments_does_not_change_the_exit_code():
    done = run_script(LATE)
    assert (done.returncode, done.stderr) == (42, "")


ONE_HOST = """
import os, signal, sys, time
from cover_jax.fault_tolerance import process
from cover_jax.parallel import hosts
from tests.fault_tolerance.test_process import TIMEOUTS, process_state
before = process_state()
with process.guarded_process(preemptible=True, quiet=True) as guard:
    guard.start_watchdog(TIMEOUTS)
    guard.connect_hosts(hosts.Coordinator(sys.argv[1], 1, 0), 600)
    assert hosts.exchange("hello") == ["hello"]
    assert {"agreement", "peer-monitor", "peer-relay", "watchdog"} <= set(process_state()["threads"])
assert process_state() == before, (process_state(), before)
with process.guarded_process(preemptible=True, quiet=True) as guard:
    guard.start_watchdog(TIMEOUTS)
assert process_state() == before
print("restored", flush=True)
os.kill(os.getpid(), signal.SIGTERM)  # ends it again
time.sleep(60)
"""


def test_it_restores_all_after_hosts_were_connected():
    reserved, address = jobs.reserve_address()
    with reserved:
        done = run_script(ONE_HOST, address, JAX_COORDINATOR_BIND_ADDRESS=address)
    assert (done.stdout, done.returncode) == ("restored\n", -signal.SIGTERM), done.stderr


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2)], ids=str)
def test_an_output_that_is_closed_loses_what_is_printed_and_nothing_else(tmp_path, closed):
    script = """
import os, sys
from cover_jax.fault_tolerance import process
before = sys.stdout, sys.stderr
with process.guarded_process(preemptible=False, quiet=True):
    print("lost")
    print("lost", file=sys.stderr)
    os.write(1, b""), os.write(2, b"")
with open(sys.argv[1], "w") as file:
    file.write(str((sys.stdout, sys.stderr) == before))
process.exit_command(3)
"""
    closing = " ".join(f"{descriptor}>&-" for descriptor in closed)
    command = ["sh", "-c", f'exec "$0" -c "$1" "$2" {closing}', sys.executable, script, tmp_path / "restored"]
    assert subprocess.run(command, capture_output=True, timeout=TIMEOUT_S).returncode == 3
    assert (tmp_path / "restored").read_text() == "True"


# What libraries change when they are imported, and why it is left so.
LIBRARIES_SET = {
    "TPU_LIBRARY_PATH": "jax: where libtpu is, if it is installed",
    "TPU_SKIP_MDS_QUERY": "jax: no TPU here, so that nothing asks Google's metadata server",
    "TPU_ML_PLATFORM": "tensorflow",
    "TPU_ML_PLATFORM_VERSION": "tensorflow",
    "ENABLE_RUNTIME_UPTIME_TELEMETRY": "tensorflow",
    "TF2_BEHAVIOR": "tensorflow",
    "KMP_DUPLICATE_LIB_OK": "tensorflow: OpenMP",
    "KMP_INIT_AT_FORK": "tensorflow: OpenMP",
    "HDF5_PLUGIN_PATH": "tensorflow: h5py loads no plugins",
}

IMPORT_ALL = """
import importlib, json, os, pkgutil, signal, sys, threading

def state():
    return {
        "signal handlers": {number.name: repr(signal.getsignal(number)) for number in signal.Signals},
        "hooks": repr((sys.excepthook, sys.unraisablehook, threading.excepthook)),
        "output": repr((sys.stdout, sys.stderr)),
        "threads": [thread.name for thread in threading.enumerate()],
    }

before, environment, modules = state(), dict(os.environ), []
for package in ("configs", "data_pipelines", "cover_jax"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:  # a logger whose package is not installed
            from cover_jax.config import plugins
            assert error.name in {entry.package for entry in plugins.LOGGERS.values()}, error
        modules.append(module.name)
changed = {name for name in environment.keys() | os.environ.keys() if environment.get(name) != os.environ.get(name)}
found = {"modules": modules, "before": before, "after": state(), "environment": sorted(changed)}
print(json.dumps(found | {"unused": sorted({"keras", "matplotlib.pyplot"} & sys.modules.keys())}))
"""


def test_importing_every_module_changes_nothing_in_the_process(without_defaults):
    done = run_script(IMPORT_ALL)
    found = json.loads(done.stdout.splitlines()[-1])
    assert {"cover_jax.training.loop", "data_pipelines.stream.host_tf", "configs.demo"} <= set(found["modules"])
    assert found["before"] == found["after"]
    assert set(found["environment"]) <= LIBRARIES_SET.keys()
    assert not found["unused"], "seconds of every start"


LAST_ACTS = """
import threading, time
from cover_jax.fault_tolerance import exit_process

begun = threading.Event()

def fail(code, line):
    raise OSError("no storage")

def slow(code, line):
    begun.set()
    time.sleep({slow_s})
    print("slow", code, line, flush=True)

exit_process.LAST_ACTS_S = {limit_s}
exit_process.before_exit(slow)
exit_process.before_exit(fail)
exit_process.before_exit(lambda *_: print("never", flush=True))()  # taken back
threading.Thread(target=exit_process.exit_process, args=(3, "error: first")).start()
begun.wait()
exit_process.exit_process(4, "error: second")
"""


NO_THREADS = """
import threading
from cover_jax.fault_tolerance import exit_process

def start(thread):
    raise RuntimeError("can't start new thread")

threading.Thread.start = start
exit_process.before_exit(print)
exit_process.exit_process(3, "error: first")
"""


def test_it_ends_with_its_cause_where_no_last_act_can_begin():
    ended = subprocess.run([sys.executable, "-c", NO_THREADS], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "", "error: first\n")


@pytest.mark.parametrize(
    ("limit_s", "slow_s", "printed"), [(60.0, 0.2, "slow 3 error: first\n"), (0.2, 60.0, "")], ids=["done", "limited"]
)
def test_the_last_acts_come_before_the_end_whichever_thread_ends_it_and_are_limited(limit_s, slow_s, printed):
    ended = subprocess.run(
        [sys.executable, "-c", LAST_ACTS.format(limit_s=limit_s, slow_s=slow_s)],
        capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert ended.stdout == printed and ended.returncode in (3, 4)
    assert ended.stderr.startswith("error: ")
