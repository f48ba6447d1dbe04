"""`python -m tests.helpers.host ORDERS FLAGS`: cover_jax.main that also records its training data, or has a fault.

ORDERS is JSON. "record" is a file; it gets one line of JSON per row of each training batch on this host's devices.
"sigterm_at", "raise_at" and "hang_at" are the step before which this fault happens in this process. "poison_at" is the
step in which this host's rows have the weight NaN. "largest_file_bytes" sets RLIMIT_FSIZE. "kill_in_save_of" is the
step whose save kills this process once it is asynchronous: it has begun, and nothing has waited for it. With
"compile_in_turn", on all hosts, the first one compiles before the others, which then find its programs in the
compilation cache.

All hosts start their programs together: on CPUs, Gloo gives up a host that compiles 30 s longer than the others.
"""

import hashlib
import itertools
import json
import os
import resource
import signal
import sys
import time

import jax
import numpy as np
from orbax.checkpoint import multihost

from cover_jax import main
from cover_jax.checkpoint import saver
from cover_jax.parallel import compilation, hosts, sharding
from data_pipelines.stream import mixture
from tests.helpers import jax_private

# After the signal, steps are as slow as those of large models: hosts need up to a second to agree on a step.
STEP_AFTER_SIGTERM_S = 1.0

_programs = itertools.count()


class Host:
    """Wraps the functions that the training loop calls."""

    def __init__(
        self, record: str = os.devnull, sigterm_at: int | None = None, raise_at: int | None = None,
        hang_at: int | None = None, poison_at: int | None = None, largest_file_bytes: int | None = None,
        kill_in_save_of: int | None = None, compile_in_turn: bool = False,
    ):  # fmt: skip
        if compile_in_turn:
            compilation.compile_side_by_side = compile_after_the_first_host
        if largest_file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file_bytes, largest_file_bytes))
        self._record = open(record, "w")  # noqa: SIM115 - until the process ends
        self._sigterm_at, self._raise_at, self._hang_at = sigterm_at, raise_at, hang_at
        self._poison_at = poison_at
        self._at, self._put_batch = mixture.Mixture.at, sharding.put_batch
        self._step, self._expected = 0, []
        mixture.Mixture.at = lambda mix, step: self.at(mix, step)
        sharding.put_batch = self.put_batch
        self._kill_in_save_of, self._start_save = kill_in_save_of, saver.start_save
        saver.start_save = self.start_save

    def start_save(self, manager, state, *args):
        self._start_save(manager, state, *args)
        if int(state.step) == self._kill_in_save_of:
            os.kill(os.getpid(), signal.SIGKILL)

    def at(self, mix, step):
        if step == self._raise_at:
            raise OSError(f"nothing can be read at step {step}")
        if step == self._hang_at:
            time.sleep(10_000)
        if step == self._sigterm_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if self._sigterm_at is not None and step >= self._sigterm_at:
            time.sleep(STEP_AFTER_SIGTERM_S)
        found = self._at(mix, step)
        self._step, self._expected = step, list(found)
        return found

    def put_batch(self, batch, mesh):
        if self._expected and self._step == self._poison_at:
            batch = batch | {"weight": batch["weight"] * np.nan}
        arrays = self._put_batch(batch, mesh)
        if self._expected:  # if empty, the call comes from evaluation
            name = self._expected.pop(0)
            for key, array in arrays.items():
                for shard in array.addressable_shards:
                    self._write(name, key, shard)
        return arrays

    def _write(self, name, key, shard):
        first = shard.index[0].start or 0
        for row, value in enumerate(shard.data.__array__(), first):
            digest = hashlib.sha1(value.tobytes()).hexdigest()
            self._record.write(json.dumps([[self._step, name, key, row], digest]) + "\n")
        self._record.flush()


def jit_and_wait(function, _jit=compilation.jit, **arguments):
    """compilation.jit, but all hosts compile before the first one runs."""
    jitted, compiled = _jit(function, **arguments), {}

    def call(*args):
        key = str(jax.tree.map(lambda x: (jax.typeof(x), getattr(x, "sharding", None)), args))
        if key not in compiled:
            compiled[key] = jitted.lower(*args).compile()
            multihost.sync_global_processes(f"compiled {next(_programs)}")
        return compiled[key](*args)

    call.lower = jitted.lower
    return call


def compile_after_the_first_host(lowered, tell, _compile=compilation.compile_side_by_side):
    """compilation.compile_side_by_side, in turn. No collective: on CPUs the others would give up after 30 s."""
    if jax.process_index():
        hosts.exchange("")
        return _compile(lowered, tell)
    compiled = _compile(lowered, tell)
    hosts.exchange("compiled")
    return compiled


def run(orders: str, *flags: str) -> None:
    """Runs the command with these orders, and ends the process."""
    jax_private.share_compiled_programs_between_hosts()
    compilation.jit = jit_and_wait
    Host(**json.loads(orders))
    main.main(flags)


if __name__ == "__main__":
    run(*sys.argv[1:])
