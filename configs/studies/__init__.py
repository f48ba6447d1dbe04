"""Configs of studies: `python -m cover_jax.study` trains and compares the settings of a study."""
