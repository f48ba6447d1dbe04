"""The calls into `jax._src` do what they are for; after another version of JAX these tests tell first."""

import subprocess
import sys

from cover_jax.parallel import jax_private
from tests.helpers import jobs

CONNECTED = """
import sys
import jax
from cover_jax.parallel import hosts, jax_private
jax.distributed.initialize(sys.argv[1], 1, 0)
client = jax_private.coordination_client()
client.key_value_set("a/key", "a text")
print(client.blocking_key_value_get("a/key", 10_000), jax_private.coordinator_host())
hosts.post("a/key", "another text")
print(hosts.posted("a/key"), hosts.posted("a/b"), hosts.posted_below("a"), hosts.posted_below("b"))
jax.distributed.shutdown()
print(jax_private.coordination_client())
"""


def test_without_other_hosts_there_is_no_client():
    assert jax_private.coordination_client() is None


def test_the_client_keeps_first_texts_and_the_coordinator_has_an_address():
    reserved, address = jobs.reserve_address()
    with reserved:
        command = [sys.executable, "-c", CONNECTED, address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["a text 127.0.0.1", "a text None ['a text'] []", "None"], done.stderr
