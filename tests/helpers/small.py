"""A model and batches small enough for every test of the training code."""

import functools
import json
import math
import types

import jax
import numpy as np
from jax.sharding import AxisType
from ml_collections import ConfigDict

from configs import common
from cover_jax.models import cover
from cover_jax.parallel import compilation, sharding
from cover_jax.training import optimizer, train_step

CLASS_NAMES = {"images": tuple("abcde"), "video": ("left", "right", "up")}
NUM_CLASSES = {name: len(names) for name, names in CLASS_NAMES.items()}


def config(**changes):
    """Two datasets, a 3-layer model on 8 px; `changes` are config keys with __ for each dot"""
    config = common.get_config()
    for name, frames in (("images", 1), ("video", 2)):
        dataset = config.datasets[name] = common.dataset()
        dataset.update({"builder": f"none/{name}", "num_frames": frames, "batch_size": 8, "canvas_px": (8, 8)})
    config.steps = 100
    config.model.update({"variant": "mu/4", "size_px": 8, "num_frames": 2, "dtype": "float32", "drop_path": 0.2})
    config.model.update({"temporal_init": "xavier", "time_embed_std": 0.02})
    for key, value in changes.items():
        group, _, last = key.rpartition("__")
        parent = config
        for part in filter(None, group.split("__")):
            parent = parent[part]
        parent[last] = value
    return config


def batch(config, name: str, seed: int = 0) -> dict[str, np.ndarray]:
    """A Batch of noise for one dataset."""
    rng, dataset = np.random.default_rng(seed), config.datasets[name]
    size = dataset.batch_size
    return {
        "frames": rng.integers(0, 256, (size, dataset.num_frames, *dataset.canvas_px, 3), np.uint8),
        "size_px": np.tile(np.array(dataset.canvas_px, np.int32), (size, 1)),
        "label": rng.integers(0, NUM_CLASSES[name], size, np.int32),
        "weight": np.ones(size, np.float32),
        "index": np.arange(size, dtype=np.int64),
        "seed": rng.integers(0, 2**32, size, np.uint32),
    }


class Trainer:
    """The training step as training/run.py puts it together, on a mesh of the first `devices`.

    Trainers of equal configs share their compiled functions; each has a state of its own.
    """

    def __init__(self, config, devices: int = 1):
        self.config = config
        built = _build(config.to_json(), devices)
        self.mesh, self.model, self.shardings, self.traces = built.mesh, built.model, built.shardings, built.traces
        self.jitted = built.step
        self.state = built.init(jax.random.key(config.seed))

    def __call__(self, *names: str, seed: int = 0) -> dict:
        """One step on batches of these datasets; returns its metrics."""
        return self.step({name: self.put(batch(self.config, name, seed)) for name in names})

    def put(self, batch: dict) -> dict:
        return sharding.put_batch(batch, self.mesh)

    def step(self, batches: dict) -> dict:
        with jax.transfer_guard("disallow"):
            self.state, measured = self.jitted(self.state, batches)
        return jax.device_get(measured)


@functools.cache
def _build(config_json: str, devices: int) -> types.SimpleNamespace:
    config = ConfigDict(json.loads(config_json))
    sizes = [devices if config.mesh[axis] == -1 else config.mesh[axis] for axis in ("data", "fsdp", "tensor")]
    mesh = jax.make_mesh(
        tuple(sizes), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3, devices=jax.devices()[: math.prod(sizes)]
    )
    constrain, qkv_sharding = sharding.constrain_batch(mesh), sharding.qkv_sharding(mesh)
    model = cover.functional(config.model, NUM_CLASSES, constrain=constrain, qkv_sharding=qkv_sharding)
    key = jax.random.key(config.seed)
    schedule = optimizer.make_schedule(config.optimizer, config.steps)
    tx = optimizer.make_optimizer(config.optimizer, schedule, jax.eval_shape(model.init, key))
    init = train_step.make_init(model, tx, config.optimizer.ema_decay)
    shardings = sharding.state_shardings(jax.eval_shape(init, key), model.axes, mesh)
    cut = sharding.cut_batch(mesh, config.optimizer.grad_accum_steps)
    step, traces = train_step.make_train_step(config, model, CLASS_NAMES, tx, schedule, cut), []

    def counted(state, batches):
        traces.append(sorted(batches))
        return step(state, batches)

    return types.SimpleNamespace(
        mesh=mesh,
        model=model,
        shardings=shardings,
        traces=traces,
        init=compilation.jit(init, out_shardings=shardings),
        step=compilation.jit(counted, donate_argnums=0, out_shardings=(shardings, sharding.replicated(mesh))),
    )
