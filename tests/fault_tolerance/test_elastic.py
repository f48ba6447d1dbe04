"""A run goes on, on other devices or with another mix of datasets, from exactly what it had come to."""

import hashlib

import jax
import numpy as np
import pytest

from cover_jax.checkpoint import compatibility
from cover_jax.parallel import sharding
from cover_jax.training import loop
from data_pipelines.stream import pipeline
from tests.helpers import tiny_run

pytestmark = pytest.mark.slow

LEG_STEPS, DEVICES = 25, (4, 2, 1, 8)
STEPS = LEG_STEPS * len(DEVICES)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    tiny_run.prepare_data(folder)
    return folder


class Leg:
    """A run on some devices that is killed at a step. Keeps each batch's hash, the losses, and some states."""

    def __init__(self, config, workdir, devices: int, last_step: int | None, mesh: dict):
        self.hashes, self.losses, self.states = {}, {}, {}
        self._last_step = last_step
        config.mesh.update(mesh)
        make_mesh = sharding.make_mesh
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sharding, "make_mesh", lambda config, _: make_mesh(config, jax.devices()[:devices]))
            patch.setattr(loop.health, "check_divergence", self._keep_losses)
            try:
                self.state = tiny_run.Intercepted(self._look).train(config, workdir)
            except tiny_run.Killed:
                assert last_step is not None

    def _look(self, state, batches):
        step = int(state.step)
        if step % LEG_STEPS == 0:
            self.states[step] = jax.device_get(state)
        if step == self._last_step:
            raise tiny_run.Killed
        digest = hashlib.sha256()
        for name, batch in sorted(batches.items()):
            for key, value in sorted(batch.items()):
                digest.update(f"{name}/{key}".encode() + np.asarray(value).tobytes())
        self.hashes[step] = digest.hexdigest()
        return state

    def _keep_losses(self, config, step, measured, losses):
        self.losses[step] = [float(pair[0]) / float(pair[1]) for key, pair in measured.items() if key.endswith("/loss")]


def test_on_4_then_2_then_1_then_8_devices(data_dir, tmp_path):
    """Parameters bit for bit, the same batches, and after 100 steps the same loss within 1e-5, on four meshes."""
    config = tiny_run.config(data_dir, ("images",), steps=STEPS, checkpoint_every_steps=LEG_STEPS)
    whole = Leg(config, tmp_path / "whole", 4, None, {"data": -1, "fsdp": 1, "tensor": 1})
    meshes = ({"fsdp": 2}, {"fsdp": 1, "tensor": 2}, {"tensor": 1}, {"fsdp": 2, "tensor": 2})
    hashes, losses, before = {}, {}, None
    for i, (devices, mesh) in enumerate(zip(DEVICES, meshes, strict=True)):
        end = (i + 1) * LEG_STEPS
        leg = Leg(config, tmp_path / "legs", devices, end if end < STEPS else None, mesh)
        if before is not None:
            jax.tree.map(np.testing.assert_array_equal, before.states[i * LEG_STEPS], leg.states[i * LEG_STEPS])
        hashes, losses, before = hashes | leg.hashes, losses | leg.losses, leg
    assert hashes == whole.hashes and len(set(hashes.values())) == STEPS
    assert whole.losses[STEPS - 1][0] < whole.losses[0][0] - 0.1, "nothing was learnt, so nothing was compared"
    np.testing.assert_allclose(losses[STEPS - 1], whole.losses[STEPS - 1], rtol=0, atol=1e-5)


def test_with_another_mix_of_datasets(data_dir, tmp_path):
    """motion leaves and appearance comes: images goes on with its next batch, its head and its momentum."""
    before = tiny_run.Intercepted()
    state = before.train(tiny_run.config(data_dir, steps=6), tmp_path)
    old = jax.device_get(state)
    config = tiny_run.config(data_dir, steps=15, keep=("appearance", "images"), datasets__appearance__weight=2.0)
    with pytest.raises(compatibility.CheckpointMismatchError, match="--config.allow_changed_mix"):
        tiny_run.Intercepted().train(config, tmp_path)

    config.allow_changed_mix = True
    first = []
    run = tiny_run.Intercepted(lambda state, batches: first.append(jax.device_get(state)) or state)
    run.train(config, tmp_path)
    for part in ("params", "opt_state"):
        now, was = (tiny_run.by_path(getattr(side, part)) for side in (first[0], old))
        assert now.keys() - was.keys() == {path for path in now if "heads/appearance" in path} != set()
        assert was.keys() - now.keys() == {path for path in was if "heads/motion" in path} != set()
        for path in now.keys() & was.keys():
            np.testing.assert_array_equal(now[path], was[path], err_msg=path)
    for name, done in (("images", sum(taken[1] == "images" for taken in before.taken)), ("appearance", 0)):
        indices = [taken[2] for taken in run.taken if taken[1] == name]
        split, dataset = run.run.train_splits[name], config.datasets[name]
        assert indices == [
            pipeline.batch_indices(split, dataset, name=name, seed=config.seed, batch=done + i)
            for i in range(len(indices))
        ]
    assert [taken[1] for taken in run.taken].count("appearance") == 6  # of 9 steps

    config.allow_changed_mix, config.steps = False, 16  # from here on it is the mix
    again = tiny_run.Intercepted()
    again.train(config, tmp_path)
    assert [taken[0] for taken in again.taken] == [15]
