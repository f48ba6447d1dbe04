"""Compiles functions: `jax.jit` with the compiler options of a platform."""

import concurrent.futures
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

# On a CPU, jax 0.10's fusion emitters make LLVM compile two to three times longer, and the code is not faster (mu/4,
# gradient, 2 cores: 6.1 s against 2.7 s to compile, 88 ms against 55 ms to run). jax 0.12 does not have the option.
JAX_WITH_SLOW_FUSIONS = (0, 10)

MAX_SIDE_BY_SIDE = (
    8  # programs: hosts of a pod have over 100 cores, but each compiler needs memory. This project's choice
)

_Key = TypeVar("_Key")


def jit(function: Callable[..., Any], *, mesh: Mesh | None = None, **arguments: Any) -> Any:
    """`jax.jit(function, **arguments)` for the platform of a mesh's devices, or for the default platform."""
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    slow = platform == "cpu" and jax.__version_info__[:2] == JAX_WITH_SLOW_FUSIONS
    return jax.jit(function, compiler_options={"xla_cpu_use_fusion_emitters": False} if slow else None, **arguments)


def keep_compiled(folder: str) -> None:
    """Turns on JAX's compilation cache in `folder`. Call it before anything is compiled.

    The environment variable JAX_COMPILATION_CACHE_DIR has precedence: hosts may share one folder.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", folder)


def compile_side_by_side(
    lowered: Mapping[_Key, jax.stages.Lowered], tell: Callable[[int], None] = lambda left: None
) -> dict[_Key, concurrent.futures.Future[jax.stages.Compiled]]:
    """Compiles programs in as many threads as there are cores, at most MAX_SIDE_BY_SIDE. Returns when all are done.

    The jitted functions that the programs were lowered from keep them: a later call with arrays of the same shapes and
    shardings compiles nothing.

    Args:
        lowered: key -> program.
        tell: called whenever a program is done, in this thread, with how many are left.

    Returns:
        Finished futures: `result()` is the compiled program, or raises the compiler's error.
    """
    threads = max(1, min(len(lowered), os.cpu_count() or 1, MAX_SIDE_BY_SIDE))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        compiled = {key: pool.submit(program.compile) for key, program in lowered.items()}
        for done, _ in enumerate(concurrent.futures.as_completed(compiled.values()), 1):
            tell(len(lowered) - done)
    return compiled
