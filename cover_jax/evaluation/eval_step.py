"""One evaluation step: a pure function from parameters and a batch to what the model answers for each example."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from ml_collections import ConfigDict

from cover_jax.evaluation import metrics
from cover_jax.models.cover import Functional
from cover_jax.preprocess import model_input


def make_eval_step(config: ConfigDict, model: Functional, name: str) -> Callable[[dict, dict], dict]:
    """Builds `eval_step(params, Batch) -> {"weight" and the fields of metrics.Predictions, each [B]}` for one dataset.

    Probabilities are averaged over eval_clips x eval_crops views of each example.
    """
    dataset = config.datasets[name]
    views = dataset.eval_clips * dataset.eval_crops

    def eval_step(params, batch):
        frames_BTHWC = model_input.evaluate(
            batch,
            size_px=config.model.size_px,
            clips=dataset.eval_clips,
            crops=dataset.eval_crops,
            mean=config.model.pixel_mean,
            std=config.model.pixel_std,
            standardize=dataset.standardize,
        )
        probabilities = jax.nn.softmax(model.apply(params, frames_BTHWC, name))
        mean_BC = jnp.mean(rearrange(probabilities, "(b v) c -> b v c", v=views), axis=1)
        said = {
            "top1": jnp.argmax(mean_BC, axis=-1),
            "hit5": metrics.top_k_hits(mean_BC, batch["label"], 5),
            "label_probability": jnp.take_along_axis(mean_BC, batch["label"][:, None], axis=1)[:, 0],
            "top1_probability": jnp.max(mean_BC, axis=-1),
        }
        return said | {key: batch[key] for key in ("index", "label", "weight")}

    return eval_step
