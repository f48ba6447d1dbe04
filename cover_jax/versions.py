"""The versions of Python and of the packages that decide what a run computes, and a hash of this project's code."""

import functools
import hashlib
import importlib.metadata
import pathlib
import sys

import cover_jax
import data_pipelines

PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "ml_collections", "clu", "einops",
    "numpy",
)  # fmt: skip


def versions() -> dict[str, str]:
    """The versions of Python, of this package and of PACKAGES."""
    found = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"python": sys.version.split()[0], "cover_jax": cover_jax.__version__, **found}


@functools.cache
def code_hashes() -> dict[str, str]:
    """Each Python file of cover_jax and data_pipelines -> 16 hexadecimal digits of its sha256."""
    hashes = {}
    for package in (cover_jax, data_pipelines):
        folder = pathlib.Path(package.__path__[0])
        for path in sorted(folder.rglob("*.py")):
            name = path.relative_to(folder.parent).as_posix()
            hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return hashes
