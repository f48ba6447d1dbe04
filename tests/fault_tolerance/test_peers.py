"""How a host ends when another has gone; with real hosts: test_faults.py."""

import signal
import subprocess
import sys

import pytest

ABORT = """
import ctypes, os, sys, threading, time
from cover_jax.fault_tolerance import peers

def end_later():
    time.sleep(1)
    os._exit(47)

if sys.argv[1:]:
    peers._delay_aborts()
threading.Thread(target=end_later, daemon=True).start()
ctypes.CDLL(None).abort()  # as a thread of a library, which does not hold the interpreter
"""


@pytest.mark.parametrize(("arguments", "code"), [([], -signal.SIGABRT), (["delay"], 47)])
def test_a_library_s_abort_leaves_time_to_say_why(arguments, code):
    done = subprocess.run([sys.executable, "-c", ABORT, *arguments], capture_output=True, timeout=120)
    assert done.returncode == code


def test_what_nobody_ends_in_time_is_aborted():
    alone = ABORT.replace("time.sleep(1)", "time.sleep(100)")
    done = subprocess.run([sys.executable, "-c", alone, "delay"], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGABRT
