"""Evaluates a model on splits: every example once, with eval_clips x eval_crops views per example."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from cover_jax.fault_tolerance import process
from cover_jax.parallel import sharding
from cover_jax.tasks import registry
from cover_jax.tasks.task import Task
from data_pipelines.stream import pipeline
from data_pipelines.stream.batch import eval_batch_rows


class Evaluator:
    """Evaluates all datasets of a config.

    Args:
        config: the whole config.
        steps: dataset whose clips are read -> its jitted evaluation step (`eval_step.make_eval_step`).
        splits: dataset -> opened evaluation split.
        mesh: where parameters and batches are.
    """

    def __init__(self, config: ConfigDict, steps: Mapping[str, Callable], splits: Mapping, mesh: Mesh):
        self._config, self._steps, self._splits, self._mesh = config, steps, splits, mesh
        self._streams: dict[str, pipeline.Stream] = {}  # closed between evaluations, see `pipeline.Stream.restart`

    def __call__(self, params) -> dict[str, Any]:
        """Dataset -> its task's predictions by the model with these parameters, for its validation examples."""
        found: dict[str, Any] = {}
        for name in self._steps:
            if name in self._splits:
                found |= self.evaluate(params, name)
        return {name: found[name] for name in self._splits}

    def num_batches(self, name: str) -> int:
        """Number of batches of a dataset's evaluation."""
        rows = eval_batch_rows(self._config.datasets[name], sharding.num_batch_shards(self._mesh))
        return -(-self._splits[name].num_examples // rows)

    def open_stream(self, name: str) -> pipeline.Stream:
        """The evaluation batches of a dataset for this host's devices: one stream, which starts again each time."""
        if name in self._streams:
            self._streams[name].restart()
            return self._streams[name]
        options = pipeline.ReadOptions.of(self._config.input, *sharding.host_part(self._mesh))
        num_shards = sharding.num_batch_shards(self._mesh)
        stream = pipeline.eval_stream(self._splits[name], self._config.datasets[name], options, num_shards)
        self._streams[name] = stream
        return stream

    def evaluate(self, params, name: str, most_batches: int | None = None) -> dict[str, Any]:
        """The predictions for one dataset's examples, or only for those of its first `most_batches` batches.

        Returns:
            dataset -> predictions: of this one, and of all that use its clips (config.datasets.NAME.same_clips_as).
        """
        process.enter_phase("evaluation", name)
        batches = min(self.num_batches(name), most_batches or self.num_batches(name))
        predictions = []
        with self.open_stream(name) as stream:
            # The delay hides the progress bar of very short evaluations.
            hidden, first = jax.process_index() != 0, itertools.islice(stream, batches)
            for batch in tqdm(first, f"evaluating {name}", batches, leave=False, delay=2.0, disable=hidden):
                predictions.append(self._steps[name](params, sharding.put_batch(batch, self._mesh)))
        batches_of = jax.device_get(predictions)
        return {
            user: _gather(registry.of(self._config.datasets[user]), [batch[user] for batch in batches_of])
            for user in batches_of[0]
        }


def _gather(task: Task, batches: list[dict]) -> Any:
    """Batches -> predictions of the task's class, in the order of the split, without examples of weight 0."""
    columns = {key: np.concatenate([np.asarray(batch[key]) for batch in batches]) for key in batches[0]}
    real = columns.pop("weight") > 0
    order = np.argsort(columns["index"][real], kind="stable")
    return task.make({key: value[real][order] for key, value in columns.items()})
