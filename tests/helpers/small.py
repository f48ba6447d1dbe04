"""A model and batches that are small enough for all tests of the training code."""

import functools
import json
import math

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from ml_collections import ConfigDict

from configs import common
from cover_jax.parallel import sharding
from cover_jax.training import setup, train_step

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
    """The training step of training/setup.py on a mesh of the first `devices` devices.

    Trainers with equal configs share their compiled functions. Each trainer has its own state.
    """

    def __init__(self, config, devices: int = 1):
        self.config = config
        self.setup, self.traces = _build(config.to_json(), devices)
        self.mesh, self.model, self.shardings = self.setup.mesh, self.setup.model, self.setup.shardings
        self.jitted = self.setup.train_step
        self.state = self.setup.new_state()

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
def _build(config_json: str, devices: int) -> tuple[setup.Setup, list]:
    config = ConfigDict(json.loads(config_json))
    sizes = [devices if config.mesh[axis] == -1 else config.mesh[axis] for axis in ("data", "fsdp", "tensor")]
    mesh = jax.make_mesh(
        tuple(sizes), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3, devices=jax.devices()[: math.prod(sizes)]
    )
    make_train_step, traces = train_step.make_train_step, []

    def make_counted(*arguments):
        step = make_train_step(*arguments)

        def counted(state, batches):
            traces.append(sorted(batches))
            return step(state, batches)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_step, "make_train_step", make_counted)
        return setup.make_setup(config, CLASS_NAMES, mesh), traces
