"""Shows the training clips of a config as the model will see them: `python -m cover_jax.preview`."""
