"""A log on a full disk: neither the run nor its exit code goes with it."""

import pathlib
import subprocess
import sys

import pytest

from cover_jax import exit_codes

FULL = pathlib.Path("/dev/full")  # every write fails for lack of space

GO_ON = """
import sys
from cover_jax import hosts, output
output.never_fail()
hosts.say("lost")
print("lost", file=sys.stderr, flush=True)
with open(sys.argv[1], "w") as done:
    done.write("went on")
"""
END = """
from cover_jax import lifeline, output
output.never_fail()
lifeline.end(47, "host 1 has gone")
"""


def run_with_full_log(*arguments: str) -> int:
    with FULL.open("w") as full:
        return subprocess.run([sys.executable, "-c", *arguments], stdout=full, stderr=full, timeout=120).returncode


pytestmark = pytest.mark.skipif(not FULL.exists(), reason="only Linux has /dev/full")


def test_what_cannot_be_printed_is_lost_and_the_run_goes_on(tmp_path):
    assert run_with_full_log(GO_ON, str(tmp_path / "done")) == 0
    assert (tmp_path / "done").read_text() == "went on"


def test_the_exit_code_is_that_of_the_cause():
    assert run_with_full_log(END) == exit_codes.LOST_PEER
