"""Re-exports the schema of a study: cover_jax/study/schema.py has every key and its default."""

from cover_jax.study.schema import get_config, setting

__all__ = ["get_config", "setting"]
