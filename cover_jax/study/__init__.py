"""Trains one model in several settings, with several seeds and data draws each: `python -m cover_jax.study`."""
