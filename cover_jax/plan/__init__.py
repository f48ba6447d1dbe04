"""The cost of a run before it is paid: `python -m cover_jax.plan`."""
