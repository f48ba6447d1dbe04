"""A log on a full disk: neither the run nor its exit code goes with it. Errors that nobody waits for."""

import pathlib
import subprocess
import sys

import pytest

from cover_jax import errors

FULL = pathlib.Path("/dev/full")  # every write fails for lack of space

GO_ON = """
import sys
from cover_jax.fault_tolerance import process, tolerant_io
from cover_jax.parallel import hosts
with tolerant_io.tolerate_output_errors():
    hosts.print_on_host0("lost")
    print("lost", file=sys.stderr, flush=True)
with open(sys.argv[1], "w") as done:
    done.write("went on")
process.exit_command(0)
"""
END = """
from cover_jax.fault_tolerance import process, tolerant_io
with tolerant_io.tolerate_output_errors():
    process.end_all_hosts(47, "host 1 has gone")
"""
ORPHANS = """
import asyncio, gc, sys
from cover_jax.fault_tolerance import tolerant_io
if sys.argv[1:]:
    hidden = tolerant_io.hide_orphaned_errors()
    hidden.__enter__()

async def fail():
    raise OSError("orphan")

async def leave_behind():
    asyncio.ensure_future(fail())
    await asyncio.sleep(0)

class Callback:
    def __del__(self):
        loop.call_soon_threadsafe(print)

class Other:
    def __del__(self):
        raise OSError("not of asyncio")

loop = asyncio.new_event_loop()
loop.run_until_complete(leave_behind())
loop.close()
Callback(), Other()
gc.collect()
"""


def run_with_full_log(*arguments: str) -> int:
    with FULL.open("w") as full:
        return subprocess.run([sys.executable, "-c", *arguments], stdout=full, stderr=full, timeout=120).returncode


needs_full = pytest.mark.skipif(not FULL.exists(), reason="only Linux has /dev/full")


@needs_full
def test_what_cannot_be_printed_is_lost_and_the_run_goes_on(tmp_path):
    assert run_with_full_log(GO_ON, str(tmp_path / "done")) == 0
    assert (tmp_path / "done").read_text() == "went on"


@needs_full
def test_the_exit_code_is_that_of_the_cause():
    assert run_with_full_log(END) == errors.LOST_PEER


def test_errors_that_nobody_waits_for_are_left_out_and_no_others():
    def printed(*arguments: str) -> str:
        command = [sys.executable, "-c", ORPHANS, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stderr

    loud, quiet = printed(), printed("quiet")
    for orphan in ("exception was never retrieved", "Event loop is closed"):
        assert orphan in loud and orphan not in quiet
    assert "not of asyncio" in quiet
