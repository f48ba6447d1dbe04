"""Features of clips and images by a trained backbone, written to a file: `python -m cover_jax.features`."""
