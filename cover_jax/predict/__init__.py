"""Predicts with a trained model on clips and images: `python -m cover_jax.predict`, or `load` in Python."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cover_jax.predict.predictor import Prediction, Predictor
    from cover_jax.predict.predictor import load_predictor as load

__all__ = ["Prediction", "Predictor", "load"]


def __getattr__(name: str):
    """Loads public names at their first use, so that this package is fast to import."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cover_jax.predict import predictor

    return getattr(predictor, "load_predictor" if name == "load" else name)
