"""Predicts the cost of a run before it starts: `python -m cover_jax.plan`."""
