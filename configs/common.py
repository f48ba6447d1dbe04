"""Re-exports the schema: cover_jax/config/schema.py has every key of a config with its default and its unit."""

from cover_jax.config.schema import (
    augment,
    dataset,
    get_config,
    input_pipeline,
    knn,
    mesh,
    model,
    optimizer,
    timeouts,
)

__all__ = ["augment", "dataset", "get_config", "input_pipeline", "knn", "mesh", "model", "optimizer", "timeouts"]
