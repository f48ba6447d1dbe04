"""Features of examples: the backbone's output for each, before any head."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import reduce
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from cover_jax.evaluation import eval_step
from cover_jax.models.cover import Functional
from cover_jax.parallel import compilation, sharding
from data_pipelines.stream import pipeline, records
from data_pipelines.stream.batch import eval_batch_rows

# B batch, V views of an example, T frames, H height, W width, C channels, N patches or examples, D width

POOLS = ("cls", "patches", "tokens")


def make_features(
    model: Functional, model_config: ConfigDict, dataset: ConfigDict, pool: str = "cls"
) -> Callable[[dict, dict], jax.Array]:
    """Builds `features(params, batch) -> float32 [B, D]`: the mean over all views of each example.

    With pool "tokens" they are [B, T, N, D], of the only view: what attentive heads read.

    Args:
        model: its heads do not matter.
        model_config: `config.model`.
        dataset: sets the views (eval_clips x eval_crops) and the normalisation.
        pool: "cls", the CLS features that linear heads read; "patches", the mean of all normalised patch tokens; or
            "tokens", the normalised patch tokens themselves.

    Raises:
        ValueError: there is no such pool, or the dataset has several views, whose tokens are of other places.
    """
    if pool not in POOLS:
        raise ValueError(f"pool={pool!r}: must be one of {', '.join(POOLS)}")
    if pool == "tokens" and (dataset.eval_clips, dataset.eval_crops) != (1, 1):
        raise ValueError(
            f"pool='tokens': needs one view per clip; here are {dataset.eval_clips} x {dataset.eval_crops} "
            "(eval_clips x eval_crops), whose tokens are of other times and places"
        )

    def of_views(params, views_BTHWC):
        if pool == "cls":
            return {pool: model.features(params, views_BTHWC)}
        tokens_BTND = model.tokens(params, views_BTHWC)[1]
        if pool == "tokens":
            return {pool: tokens_BTND.astype(jnp.float32)}
        return {pool: reduce(tokens_BTND, "b t n d -> b d", "mean")}

    mean = eval_step.over_views(model_config, dataset, of_views)
    return lambda params, batch: mean(params, batch)[pool]


class Labelled(NamedTuple):
    """Features [N, D] float32 and labels [N] of the examples of a split that can be decoded, in its order."""

    features_ND: np.ndarray
    label_N: np.ndarray


def make_step(model: Functional, config: ConfigDict, name: str, mesh: Mesh) -> Callable[[dict, dict], dict]:
    """A dataset's jitted `step(params, Batch) -> {"features" [B, D], "index", "label", "weight"}`, replicated."""
    features = make_features(model, config.model, config.datasets[name])

    def step(params, batch):
        return {"features": features(params, batch)} | {key: batch[key] for key in ("index", "label", "weight")}

    jitted: Callable[[dict, dict], dict] = compilation.jit(step, mesh=mesh, out_shardings=sharding.replicated(mesh))
    return jitted


def of_split(
    step: Callable[[dict, dict], dict],
    params,
    split: records.Split,
    dataset: ConfigDict,
    config: ConfigDict,
    mesh: Mesh,
) -> Labelled:
    """The features of a whole split, the same on all hosts. Each host reads and computes its part.

    Args:
        step: from `make_step`.
        params: of the model.
        split: what to read.
        dataset: its entry in the config.
        config: the whole config.
        mesh: where parameters and batches are.
    """
    options, num_shards = (
        pipeline.ReadOptions.of(config.input, *sharding.host_part(mesh)),
        sharding.num_batch_shards(mesh),
    )
    batches = -(-split.num_examples // eval_batch_rows(dataset, num_shards))
    parts = []
    with pipeline.eval_stream(split, dataset, options, num_shards) as stream:
        title, hidden = f"features of {split.builder} {split.split}", jax.process_index() != 0
        for batch in tqdm(stream, title, batches, leave=False, delay=2.0, disable=hidden):
            parts.append(jax.device_get(step(params, sharding.put_batch(batch, mesh))))
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    real = columns["weight"] > 0
    order = np.argsort(columns["index"][real], kind="stable")
    return Labelled(columns["features"][real][order], columns["label"][real][order])
