"""The heads and the optimizer of the library on features from its command, with the values of configs/probe.py.

The backbone is frozen and the frames are not augmented, so the features of a clip are the same in each step. They are
computed once for all rows and seeds.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import probe
from cover_jax.models import cover, heads
from cover_jax.parallel import compilation
from cover_jax.tasks import registry
from cover_jax.training import optimizer
from tests.benchmarks.probes import clips

# B batch, N clips, C classes

STEPS = 200
NUM_CLASSES = 5


@functools.cache
def _config(kind: str) -> ConfigDict:
    config = probe.get_config(f"{clips.BUILDER},{kind}")
    config.steps = STEPS
    config.optimizer.frozen = ""  # there is no backbone here
    config.model.update({"variant": "S/14", "dtype": "float32"})
    return config


class Probes:
    """Heads of one kind, one per learning rate, trained side by side.

    Args:
        kind: "linear" or "attentive".
        depth: blocks of attentive heads.
    """

    def __init__(self, kind: str, depth: int = 0):
        self._config = _config(kind)
        spec = heads.HeadSpec(kind, depth)
        self._heads = {
            name: cover.make_head(self._config.model, spec, name, NUM_CLASSES) for name in self._config.datasets
        }
        scales = {name: dataset.head.learning_rate_scale for name, dataset in self._config.datasets.items()}
        schedule = optimizer.make_schedule(self._config.optimizer, STEPS)
        shapes = jax.eval_shape(self._init, jax.random.key(0))
        self._tx = optimizer.make_optimizer(self._config.optimizer, schedule, shapes, head_scales=scales)
        self._step, self._logits = compilation.jit(self._make_step()), compilation.jit(self._of_all)

    def _init(self, key: jax.Array) -> dict[str, Any]:
        return {"heads": {name: head.init(key) for name, head in self._heads.items()}}

    def _of_all(self, params: Mapping[str, Any], features: jax.Array) -> dict[str, jax.Array]:
        return {name: head.bind(params["heads"][name])(features) for name, head in self._heads.items()}

    def _make_step(self) -> Callable[..., tuple[Any, Any]]:
        task = registry.named("multiclass")

        def loss(params, features, label_B):
            targets_BC = task.targets(label_B, NUM_CLASSES, 0.0)
            return sum(task.loss(logits, targets_BC).mean() for logits in self._of_all(params, features).values())

        def step(params, state, features, label_B):
            updates, state = self._tx.update(jax.grad(loss)(params, features, label_B), state, params)
            return jax.tree.map(jnp.add, params, updates), state

        return step

    def __call__(
        self, features: np.ndarray, label_N: np.ndarray, train: np.ndarray, seed: int
    ) -> dict[str, np.ndarray]:
        """Trains from new values. Returns of each head which of all clips it labels right, bool [N].

        Args:
            features: [N, ...] of all clips.
            label_N: their classes.
            train: indices of the clips to train on.
            seed: of the initial values and of the order of clips.
        """
        batch_size = next(iter(self._config.datasets.values())).batch_size
        params = jax.jit(self._init)(jax.random.key(seed))
        state, rng, left = self._tx.init(params), np.random.default_rng(seed), np.empty(0, int)
        for _ in range(STEPS):
            left = left if len(left) >= batch_size else rng.permutation(train)
            batch, left = left[:batch_size], left[batch_size:]
            params, state = self._step(params, state, features[batch], label_N[batch])
        return {name: np.argmax(of_head, 1) == label_N for name, of_head in self._logits(params, features).items()}
