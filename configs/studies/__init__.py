"""Studies: `python -m cover_jax.study` trains and compares their settings."""
