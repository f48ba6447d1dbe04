"""Weights that others trained, as parameters of this model."""
