"""Pure functions of evaluation: from parameters and a batch to probabilities, and to the predictions per example."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from einops import rearrange
from ml_collections import ConfigDict

from cover_jax.models.cover import Functional
from cover_jax.preprocess import model_input
from cover_jax.tasks import registry
from cover_jax.tasks.task import Task
from data_pipelines.stream import mixture

# B batch, V views of an example, T frames, H height, W width, C channels or classes


def over_views(
    model_config: ConfigDict, dataset: ConfigDict, of_views: Callable[[dict, jax.Array], dict[str, jax.Array]]
) -> Callable[[dict, dict], dict[str, jax.Array]]:
    """Builds `mean(params, batch) -> {name: [B, ...]}`: the mean of `of_views` over all views of each example.

    Args:
        model_config: `config.model`.
        dataset: sets the views (eval_clips x eval_crops) and the normalisation.
        of_views: (params, normalised views [B * V, T, H, W, C]) -> {name: [B * V, ...]}.
    """
    views = dataset.eval_clips * dataset.eval_crops
    normalization = model_input.Normalization.of(model_config, dataset)

    def mean(params, batch):
        views_BTHWC = model_input.evaluate(
            batch,
            size_px=model_config.size_px,
            clips=dataset.eval_clips,
            crops=dataset.eval_crops,
            normalization=normalization,
            crop_share=dataset.eval_crop_share,
        )
        by_view = of_views(params, views_BTHWC)
        return {name: jnp.mean(rearrange(x, "(b v) ... -> b v ...", v=views), axis=1) for name, x in by_view.items()}

    return mean


def make_probabilities(
    model: Functional, model_config: ConfigDict, dataset: ConfigDict, tasks: Mapping[str, Task]
) -> Callable[[dict, dict], dict[str, jax.Array]]:
    """Builds `probabilities(params, batch) -> {head: float32 [B, C]}`: the mean over all views of each example.

    Args:
        model: with these heads.
        model_config, dataset: as for `over_views`.
        tasks: head -> its task.
    """

    def of_views(params, views_BTHWC):
        logits = model.apply_heads(params, views_BTHWC, list(tasks))
        return {head: task.probabilities(logits[head]) for head, task in tasks.items()}

    return over_views(model_config, dataset, of_views)


def make_eval_step(config: ConfigDict, model: Functional, name: str) -> Callable[[dict, dict], dict]:
    """Builds a dataset's `eval_step(params, Batch) -> {dataset: {"weight", and its task's predictions: [B, ...]}}`.

    It serves the dataset and all that use its clips (config.datasets.NAME.same_clips_as).
    """
    users = mixture.by_clip_source(config.datasets)[name]
    tasks = {user: registry.of(config.datasets[user]) for user in users}
    probabilities = make_probabilities(model, config.model, config.datasets[name], tasks)

    def eval_step(params, batch):
        mean, known = probabilities(params, batch), {key: batch[key] for key in ("index", "label", "weight")}
        return {user: task.predict(mean[user], batch) | known for user, task in tasks.items()}

    return eval_step
