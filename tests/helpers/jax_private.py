"""JAX internals that tests need. No other module of the tests imports `jax._src`."""

import contextlib
from collections.abc import Iterator

import pytest
from jax._src import cache_key, compilation_cache
from jax._src.cudnn import fused_attention_stablehlo
from jax._src.lib import _jax


@contextlib.contextmanager
def distributed_service(address: str, num_processes: int) -> Iterator[None]:
    """The service that `jax.distributed.initialize` starts on process 0, without connecting a process to it.

    `initialize` waits until all processes are there. A public way to start the service alone would replace this
    function.
    """
    service = _jax.get_distributed_runtime_service(address, num_processes)
    try:
        yield
    finally:
        service.shutdown()


def compressed(program: bytes) -> bytes:
    """What JAX writes into its compilation cache for a program."""
    return compilation_cache.compress_executable(program)


def is_whole_program(entry: bytes) -> bool:
    """Whether a file of the compilation cache was written to its end. JAX has no public check."""
    try:
        compilation_cache.decompress_executable(entry)
    except Exception:  # of whichever compression JAX has
        return False
    return True


def share_compiled_programs_between_hosts() -> None:
    """Lets all hosts on one machine use the compilation cache that the first host writes. Permanent in this process.

    On CPUs the key of a compiled program depends on the process, and only the programs of the first host are stored. So
    all other hosts would compile the same programs at every start. This function is not necessary if the keys of CPU
    programs do not depend on the process; JAX 0.10.2 has no setting for this.
    """
    cache_key._hash_accelerator_config = cache_key._hash_devices


def pretend_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets JAX lower cuDNN's attention for a GPU on a machine without one.

    JAX queries the version of the installed cuDNN and the generation of the GPU. `jax.export` with platforms also
    queries them. A public way to set both would replace this function.
    """
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda capability: True)
