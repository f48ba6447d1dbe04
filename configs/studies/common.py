"""The schema of a study, handed on: every key and its default stand in cover_jax/study/schema.py."""

from cover_jax.study.schema import get_config, setting

__all__ = ["get_config", "setting"]
