"""JAX's internals that tests need: the only module of the tests that imports `jax._src`."""

import pytest
from jax._src import cache_key
from jax._src.cudnn import fused_attention_stablehlo


def share_compiled_programs_between_hosts() -> None:
    """Lets all hosts on one machine use the compilation cache that the first host writes; in this process, for good.

    On CPUs the key of a compiled program depends on the process, and only the first host's programs are kept: all
    others would compile at every start. They are the same programs. Keys of CPU programs that do not depend on the
    process would replace this function; JAX 0.10.2 has no setting for it.
    """
    cache_key._hash_accelerator_config = cache_key._hash_devices


def pretend_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets JAX lower cuDNN's attention for a GPU on a machine without one.

    JAX asks the cuDNN that is installed for its version, and the GPU for its generation. `jax.export` with platforms
    asks them too; a public way to name both would replace this function.
    """
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda capability: True)
