"""Processes end with the one that began them."""

import os
import subprocess
import sys
import time

BEGIN = """
import os, time
from data_pipelines import processes
from tests.data_pipelines import test_processes
if __name__ == "__main__":
    with processes.pool(2, test_processes.say_begun, "hello") as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""


def say_begun(word):
    print(word, flush=True)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_killed_process_leaves_none_of_its_pool():
    with subprocess.Popen(
        [sys.executable, "-c", BEGIN], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        assert process.stdout.readline() == "hello\n"
        worker = int(process.stdout.readline())
        assert is_running(worker)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 20
        while is_running(worker) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not is_running(worker)
