"""Predictions for clips and images by a trained model: `python -m cover_jax.predict`, or `load` in Python."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cover_jax.predict.predictor import Prediction, Predictor
    from cover_jax.predict.predictor import load_predictor as load

__all__ = ["Prediction", "Predictor", "load"]


def __getattr__(name: str):
    """The public names, loaded when they are first used: this package must stay light to import."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cover_jax.predict import predictor

    return getattr(predictor, "load_predictor" if name == "load" else name)
