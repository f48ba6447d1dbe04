"""Complete runs in this process that take seconds: `loop.train` on two small embedded datasets, with faults."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator

import jax
import numpy as np
import pytest

from configs import demo
from cover_jax.training import loop, setup
from data_pipelines.builders import digits
from data_pipelines.prepare import build
from data_pipelines.stream import records

CLIPS = {name: {"train": 48, "validation": 8} for name in ("appearance", "motion", "images")}


def prepare_data(data_dir: pathlib.Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "CLIPS", CLIPS)
        for name in CLIPS:
            build.prepare_if_self_contained(f"digits/{name}", str(data_dir))


def damage(split: records.Split, indices: list[int]) -> None:
    """Flips a bit in the data of these records."""
    for i in indices:
        with open(split.paths[split.shards[i]], "r+b") as file:
            file.seek(split.offsets[i] + 60)
            (byte,) = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte ^ 4]))


def config(data_dir: pathlib.Path, keep=("images", "motion"), **changes):
    """A tiny version of the demo: 12 steps, each on one of the datasets in `keep`, and a checkpoint every 3 steps.

    `changes` are config keys with __ for each dot.
    """
    config = demo.get_config()
    for name in set(config.datasets) - set(keep):
        del config.datasets[name]
    config.data_dir, config.plan, config.steps = str(data_dir), "interleave", 12
    config.log_every_steps, config.checkpoint_every_steps, config.eval_every_steps = 1, 3, 1000
    config.keep_checkpoints, config.optimizer.warmup_steps = 9, 1
    config.input.leaks = "ignore"
    for dataset in config.datasets.values():
        dataset.batch_size = dataset.eval_batch_size = 8
        dataset.eval_split = ""
    config.datasets[keep[-1]].eval_split, config.best_metric = "validation", f"{keep[-1]}/top1"
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config


@contextlib.contextmanager
def shared_setups() -> Iterator[None]:
    """Inside this context, runs with equal configs share their setup, and so trace and compile their steps once.

    A step is a pure function of the state and the batches. That a new process continues in the same way is shown by the
    slow tests, which start the command.
    """
    make_setup, made = setup.make_setup, {}

    def make_once(config, class_names, mesh, kept_heads=(), head_specs=setup.NO_SPECS):
        key = (config.to_json(), repr(class_names), mesh, tuple(kept_heads), repr(head_specs))
        if key not in made:
            made[key] = make_setup(config, class_names, mesh, kept_heads, head_specs)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "make_setup", make_once)
        yield


@contextlib.contextmanager
def one_device() -> Iterator[None]:
    """Inside this context, runs take one device: a save on eight writes each array in eight parts, for a second.

    For tests of what the loop does, whatever the devices. The other runs of the tests have eight.
    """
    make_mesh = setup.make_mesh
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))
        yield


class Killed(BaseException):
    """Raised by an order. No code of the project catches it."""


def by_path(tree) -> dict:
    """The tree as {"a/b": leaf}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


class Intercepted:
    """`loop.train` with an `order` that sees each step before it is taken.

    Args:
        order: (state, {dataset: batch on the devices}) -> the state for the step.

    Attributes:
        run: the `run.Run` of the last call.
        taken: (step, dataset, indices of the examples) of each step that was done, in order.
    """

    def __init__(self, order=lambda state, batches: state):
        self._order, self.taken = order, []

    def train(self, config, workdir):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "_train_on", self._train_on(loop._train_on))
            return loop.train(config, str(workdir))

    def _train_on(self, original):
        def train_on(run, state, *rest):
            setup, self.run = run.setup, run

            def step(state, on_device):
                indices = {name: np.asarray(batch["index"]).tolist() for name, batch in on_device.items()}
                with jax.transfer_guard("allow"):
                    self.taken += [(int(state.step), name, found) for name, found in indices.items()]
                    state = self._order(state, on_device)
                return setup.train_step(state, on_device)

            run.setup = dataclasses.replace(setup, train_step=step)
            try:
                return original(run, state, *rest)
            finally:
                run.setup = setup

        return train_on
