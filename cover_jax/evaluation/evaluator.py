"""Evaluates a model on splits: every example once, with eval_clips x eval_crops views per example."""

from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from cover_jax.evaluation import metrics
from cover_jax.fault_tolerance import process
from cover_jax.parallel import sharding
from data_pipelines.stream import pipeline
from data_pipelines.stream.batch import eval_batch_rows


class Evaluator:
    """Evaluates all datasets of a config.

    Args:
        config: the whole config.
        steps: dataset -> its jitted evaluation step (`eval_step.make_eval_step`).
        splits: dataset -> opened evaluation split.
        mesh: where parameters and batches are.
    """

    def __init__(self, config: ConfigDict, steps: Mapping[str, Callable], splits: Mapping, mesh: Mesh):
        self._config, self._steps, self._splits, self._mesh = config, steps, splits, mesh

    def __call__(self, params) -> dict[str, metrics.Predictions]:
        """Dataset -> predictions of the model with these parameters for its validation examples."""
        return {name: self._evaluate(params, name) for name in self._splits}

    def _evaluate(self, params, name: str) -> metrics.Predictions:
        process.enter_phase("evaluation", name)
        dataset, split = self._config.datasets[name], self._splits[name]
        options = pipeline.ReadOptions.of(self._config.input, *sharding.host_part(self._mesh))
        num_shards = sharding.num_batch_shards(self._mesh)
        stream = pipeline.eval_stream(split, dataset, options, num_shards)
        batches = -(-split.num_examples // eval_batch_rows(dataset, num_shards))
        predictions = []
        with stream:
            # The delay hides the progress bar of very short evaluations.
            hidden = jax.process_index() != 0
            for batch in tqdm(stream, f"evaluating {name}", batches, leave=False, delay=2.0, disable=hidden):
                predictions.append(self._steps[name](params, sharding.put_batch(batch, self._mesh)))
        return _gather(jax.device_get(predictions))


def _gather(batches: list[dict]) -> metrics.Predictions:
    """Batches -> one Predictions in the order of the split, without examples of weight 0."""
    columns = {key: np.concatenate([np.asarray(batch[key]) for batch in batches]) for key in batches[0]}
    real = columns.pop("weight") > 0
    order = np.argsort(columns["index"][real], kind="stable")
    return metrics.Predictions(**{key: value[real][order] for key, value in columns.items()})
