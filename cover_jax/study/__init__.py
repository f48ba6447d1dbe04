"""One model in several settings, each from several seeds and draws of the data: `python -m cover_jax.study`."""
