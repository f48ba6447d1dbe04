"""The kernels as the TPU compiler takes them: every head size and the longest clips, forward and backward."""

import importlib.util
import json
import subprocess
import sys

import pytest

COMPILE = """
import json, os, sys
import jax, jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from cover_jax.models.kernels import divided_attention
from cover_jax.plan import topologies

topologies.use_compiler_only("")
os.environ["LIBTPU_INIT_ARGS"] = ""  # writes no schedules, which take half of the time
for case in map(json.loads, sys.stdin):
    topology, frames, tokens, head_dim, axis = case
    where = SingleDeviceSharding(topologies.devices(topology)[0])
    qkv = jax.ShapeDtypeStruct((1, frames, tokens, 3 * 16 * head_dim), jnp.bfloat16, sharding=where)

    def loss(qkv):
        return jnp.sum(divided_attention.attend(qkv, 16, head_dim, axis).astype(jnp.float32))

    text = jax.jit(jax.grad(loss)).lower(qkv).compile().as_text()
    print(json.dumps([case, text.count('custom_call_target="tpu_custom_call"')]), flush=True)
"""


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    """A process that compiles cases from its input: loading JAX and libtpu takes longer than most of the cases."""
    errors = tmp_path_factory.mktemp("compiler") / "stderr"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-c", COMPILE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        process.errors = errors
        yield process
        process.kill()


@pytest.mark.tpu_compiler
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install '.[plan]'")
@pytest.mark.parametrize(
    ("topology", "frames", "tokens", "head_dim", "axis"),
    [
        ("v4:1x1x1", 16, 112, 64, "time"),  # the most groups of positions in a block
        ("v5e:1x1", 8, 20, 80, "time"),
        ("v5e:1x1", 32, 20, 88, "time"),
        ("v5e:1x1", 16, 20, 64, "time"),
        pytest.param("v6e:1x1", 64, 20, 64, "time", marks=pytest.mark.slow),
        pytest.param("v4:1x1x1", 128, 20, 88, "time", marks=pytest.mark.slow),  # the least fast memory
        ("v5p:1x1x1", 1, 197, 88, "space"),  # an image
        ("tpu7x:1x1x1", 16, 20, 64, "time"),
    ],
)
def test_the_compiler_takes_a_kernel(compiler, topology, frames, tokens, head_dim, axis):
    case = [topology, frames, tokens, head_dim, axis]
    if compiler.poll() is None:
        print(json.dumps(case), file=compiler.stdin, flush=True)
    answer = compiler.stdout.readline()
    assert answer, compiler.errors.read_text()[-2000:]
    assert json.loads(answer) == [case, 2]  # forward and backward
