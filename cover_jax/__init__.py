"""CoVeR: co-training one TimeSformer on video and image datasets (arXiv 2112.07175).

model = cover_jax.load("/tmp/cover_demo@best")  # or hf://ORG/REPO, or a folder with published weights
model.predict(["clip.mp4"])[0]["motion"].top(5)
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cover_jax.model import Model, load

__version__ = "0.2.0"
__all__ = ["Model", "load"]


def __getattr__(name: str) -> object:
    """Loads public names at their first use, so that this package is fast to import."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # By name: the modules below, which read `__version__` here, import nothing above them.
    return getattr(importlib.import_module("cover_jax.model"), name)
