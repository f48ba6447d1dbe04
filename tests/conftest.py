"""Eight virtual CPU devices for every test, programs compiled once per session, and the folder of real clips if any."""

import atexit
import gc
import importlib.metadata
import os
import pathlib
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
# The programs are tiny and compiling them takes most of the time: without optimisation that is two to three times less.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
# These two save a part of the rest; the commands compile with the first one too (parallel/compilation.py). Other
# versions of XLA may not know them, and an unknown flag ends the process. The scheduler stays: without the one for
# concurrency, hosts run the collectives of one program in different orders, and Gloo aborts.
if importlib.metadata.version("jax").startswith("0.10."):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

# Equal programs are compiled once, by whichever test process or command needs them first. A session that ends well adds
# them to .pytest_cache, for the next one; JAX_COMPILATION_CACHE_DIR names a folder that sessions share, as in .ci/run.
_programs = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the workers inherit the environment
    _programs = tempfile.TemporaryDirectory(prefix="compiled_programs_")
    atexit.register(_programs.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import pytest  # noqa: E402 - the environment must be set before anything imports JAX or TensorFlow

from data_pipelines import environment  # noqa: E402
from tests.helpers import kept_programs  # noqa: E402

# Files whose long tests take 3 minutes or more, with four processes on two cores; 8 to 10 minutes at the top.
LONGEST_FIRST = (
    "tests/flagship/test_cover_l.py",
    "tests/test_main.py",
    "tests/fault_tolerance/test_buckets.py",
    "tests/fault_tolerance/test_kills.py",
    "tests/flagship/test_cover_b.py",
    "tests/fault_tolerance/test_signals.py",
    "tests/flagship/test_stage1.py",
    "tests/study/test_study.py",
    "tests/fault_tolerance/test_elastic.py",
    "tests/data_pipelines/leaks/test_leaks.py",
    "tests/fault_tolerance/test_clocks.py",
    "tests/fault_tolerance/test_multihost.py",
    "tests/training/test_long_runs.py",
    "tests/test_notebook.py",
)

environment.set_tensorflow_defaults()
gc.set_threshold(10_000, 20, 20)  # what is imported stays


def pytest_configure(config):
    """Brings the programs of earlier sessions, before any test process begins."""
    if _programs and hasattr(config, "cache"):  # not with -p no:cacheprovider
        kept_programs.take(config.cache.mkdir("compiled_programs"), pathlib.Path(_programs.name))


def pytest_sessionfinish(session, exitstatus):
    """Keeps the programs of a session without failures."""
    if _programs and hasattr(session.config, "cache") and exitstatus == pytest.ExitCode.OK:
        kept_programs.keep(pathlib.Path(_programs.name), session.config.cache.mkdir("compiled_programs"))


def pytest_collection_modifyitems(items):
    """The files that take longest come first, so that no process begins one when the others are about to end."""
    place = {file: i for i, file in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.location[0], len(place)))


def pytest_collection_finish():
    """Leaves out of garbage collection what lives until the end: modules and tests, which are most of all objects."""
    gc.collect()
    gc.freeze()


def pytest_report_teststatus(report):
    """Prints the name of a test that fails at once, among the dots: a run may be stopped before its summary."""
    if report.failed:
        category = "failed" if report.when == "call" else "error"
        return category, f"\n{category.upper()} {report.nodeid}\n", category.upper()
    return None


@pytest.fixture(scope="session", autouse=True)
def golden_files_stay():
    """Files that earlier versions wrote are for tests to copy: opening a dataset may renew its indices and facts."""
    folder = pathlib.Path(__file__).parent / "golden" / "run"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    yield
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    changed = sorted(str(path) for path, _ in before.items() ^ after.items())
    assert not changed, f"a test wrote into {folder}, and must copy it first: {changed}"


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder with UCF101, ARID and CIFAR-10 samples that COVER_TEST_DATA names."""
    folder = os.environ.get("COVER_TEST_DATA", "")
    if not folder:
        pytest.skip("COVER_TEST_DATA is not set: no folder of real clips to test with")
    return pathlib.Path(folder)
