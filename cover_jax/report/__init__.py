"""A run as one HTML page: `python -m cover_jax.report --workdir=DIR`."""
