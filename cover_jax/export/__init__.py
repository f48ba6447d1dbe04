"""Exports a trained model for use without this package: `python -m cover_jax.export`."""
