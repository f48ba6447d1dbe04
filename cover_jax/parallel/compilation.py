"""Compiles functions: `jax.jit` with the compiler options of a platform."""

import concurrent.futures
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

# On a CPU, LLVM takes most of the time of a start. At level 2 in place of 3, a model's initial values (mu/4) compile in
# 1.9 s in place of 10.6 s, and its gradient in 4.0 s in place of 5.5 s. The code is as fast (16 clips of mu/4: 145 and
# 141 ms; one of S/16, 8 x 112 px: 1487 and 1650 ms). CPU time, medians by turns, jax 0.10.2.
_CPU_OPTIONS: dict[str, int | bool] = {"xla_backend_optimization_level": 2}
# jax 0.10's fusion emitters make LLVM compile two to three times longer, and the code is not faster (mu/4, gradient, 2
# cores: 6.1 s against 2.7 s to compile, 88 ms against 55 ms to run). jax 0.12 does not have the option.
_JAX_WITH_SLOW_FUSIONS = (0, 10)
_NO_SLOW_FUSIONS: dict[str, int | bool] = {"xla_cpu_use_fusion_emitters": False}

MAX_SIDE_BY_SIDE = (
    8  # programs: hosts of a pod have over 100 cores, but each compiler needs memory. This project's choice
)

_Key = TypeVar("_Key")


def jit(function: Callable[..., Any], *, mesh: Mesh | None = None, **arguments: Any) -> Any:
    """`jax.jit(function, **arguments)` for the platform of a mesh's devices, or for the default platform.

    What the environment variable XLA_FLAGS says has precedence over the options of the platform.
    """
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    return jax.jit(function, compiler_options=_options(platform) or None, **arguments)


def _options(platform: str) -> dict[str, int | bool]:
    """The compiler's options on a platform, without those that XLA_FLAGS names."""
    if platform != "cpu":
        return {}
    options = _CPU_OPTIONS | (_NO_SLOW_FUSIONS if jax.__version_info__[:2] == _JAX_WITH_SLOW_FUSIONS else {})
    flags = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in options.items() if f"--{name}" not in flags}


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
