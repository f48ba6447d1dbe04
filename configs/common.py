"""The schema, handed on: every key of a config, its default and its unit stand in cover_jax/config/schema.py."""

from cover_jax.config.schema import (
    augment,
    dataset,
    get_config,
    input_pipeline,
    mesh,
    model,
    optimizer,
    timeouts,
)

__all__ = ["augment", "dataset", "get_config", "input_pipeline", "mesh", "model", "optimizer", "timeouts"]
