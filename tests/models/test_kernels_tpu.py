"""The kernels as the TPU compiler takes them: every head size and the longest clips, forward and backward."""

import importlib.util
import subprocess
import sys

import pytest

COMPILE = """
import sys, tempfile
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import SingleDeviceSharding
from cover_jax.models.kernels import divided_attention
from cover_jax.plan import topologies

topologies.use_compiler_only(tempfile.mkdtemp())
topology, frames, tokens, head_dim, axis = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
where = SingleDeviceSharding(topologies.devices(topology)[0])
qkv = jax.ShapeDtypeStruct((1, frames, tokens, 3 * 16 * head_dim), jnp.bfloat16, sharding=where)

def loss(qkv):
    return jnp.sum(divided_attention.attend(qkv, 16, head_dim, axis).astype(jnp.float32))

text = jax.jit(jax.grad(loss)).lower(qkv).compile().as_text()
print(text.count('custom_call_target="tpu_custom_call"'))
"""


@pytest.mark.tpu_compiler
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install '.[plan]'")
@pytest.mark.parametrize(
    ("topology", "frames", "tokens", "head_dim", "axis"),
    [
        ("v4:1x1x1", 16, 112, 64, "time"),  # the most groups of positions in a block
        ("v5e:1x1", 8, 20, 80, "time"),
        ("v5e:1x1", 32, 20, 88, "time"),
        ("v5e:1x1", 16, 20, 64, "time"),
        ("v6e:1x1", 64, 20, 64, "time"),
        ("v4:1x1x1", 128, 20, 88, "time"),  # the least fast memory
        ("v5p:1x1x1", 1, 197, 88, "space"),  # an image
        ("tpu7x:1x1x1", 16, 20, 64, "time"),
    ],
)
def test_the_compiler_takes_a_kernel(topology, frames, tokens, head_dim, axis):
    command = [sys.executable, "-c", COMPILE, topology, str(frames), str(tokens), str(head_dim), axis]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) == 2  # forward and backward
