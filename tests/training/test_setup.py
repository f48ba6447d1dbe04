"""The assembly of a run: it describes states and batches as a run has them, so that the plan compiles the same step."""

import types

import jax
import numpy as np
import pytest

from cover_jax.errors import ConfigError
from cover_jax.parallel import compilation
from cover_jax.training import setup
from tests.helpers import small


def described(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree)


@pytest.fixture(scope="module")
def trainer():
    return small.Trainer(small.config(mesh__data=2, mesh__fsdp=2, optimizer__ema_decay=0.9), devices=4)


def test_the_state_is_as_it_is_described(trainer):
    assert described(trainer.state) == described(trainer.setup.state)
    kernel = trainer.setup.state.params["backbone"]["blocks"]["mlp"]["fc1"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (3, 32, 256)


def test_batches_are_as_they_are_described(trainer):
    for name in small.CLASS_NAMES:
        assert described(trainer.put(small.batch(trainer.config, name))) == described(trainer.setup.train_batch(name))


def test_an_evaluation_batch_has_all_its_clips(trainer):
    config = small.config(datasets__video__eval_clips=3, datasets__video__eval_batch_size=4)
    batch = setup.make_setup(config, small.CLASS_NAMES, trainer.mesh).eval_batch("video")
    assert batch["frames"].shape == (4, 6, 8, 8, 3)
    assert batch["weight"].shape == (4,)


@pytest.mark.parametrize("names", [("video",), ("images", "video")])
def test_shapes_alone_give_the_program_that_training_runs(trainer, names):
    batches = {name: trainer.put(small.batch(trainer.config, name)) for name in names}
    planned = trainer.jitted.lower(trainer.setup.state, {name: trainer.setup.train_batch(name) for name in names})
    assert planned.as_text() == trainer.jitted.lower(trainer.state, batches).as_text()


def test_only_datasets_that_are_evaluated_have_an_evaluation_step():
    config = small.config(datasets__images__eval_split="")
    assert list(setup.make_setup(config, small.CLASS_NAMES, setup.make_mesh(config)).eval_steps) == ["video"]


def test_batches_that_the_devices_cannot_share_are_refused():
    with pytest.raises(ConfigError, match="datasets.video.batch_size=6: must be a multiple of 8"):
        setup.make_mesh(small.config(datasets__video__batch_size=6))


@pytest.mark.parametrize(("platform", "has_options"), [("cpu", True), ("tpu", False)])
def test_the_devices_decide_how_it_is_compiled_not_the_default_platform(monkeypatch, platform, has_options):
    """The plan compiles for TPUs in a process whose default platform is the CPU."""
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(jax, "jit", lambda function, compiler_options: bool(compiler_options))
    mesh = types.SimpleNamespace(devices=np.array([[types.SimpleNamespace(platform=platform)]]))
    assert compilation.jit(abs, mesh=mesh) == has_options
    assert compilation.jit(abs) == (jax.default_backend() == "cpu")


def test_the_compiler_takes_the_options_and_xla_flags_have_precedence(monkeypatch):
    given = []
    jit = jax.jit
    monkeypatch.setattr(jax, "jit", lambda function, **options: given.append(options) or jit(function, **options))
    monkeypatch.setenv("XLA_FLAGS", "")
    assert compilation.jit(abs)(-1) == 1
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=true")
    assert compilation.jit(abs)(-2) == 2
    first, second = (options["compiler_options"] for options in given)
    assert first["xla_backend_optimization_level"] == 2 and second is None


def test_a_model_without_a_mesh_is_the_same_model(trainer):
    model = setup.make_model(trainer.config.model, small.CLASS_NAMES)
    assert model.axes == trainer.setup.model.axes


@pytest.mark.slow
def test_programs_compiled_side_by_side_are_those_that_the_steps_run():
    trainer, seen = small.Trainer(small.config(optimizer__learning_rate=0.07)), []
    programs = {names: trainer.setup.lower_train_step(names) for names in trainer.setup.step_datasets}
    compiled = compilation.compile_side_by_side(programs)
    assert list(compiled) == [("images",), ("video",)] and len(trainer.traces) == 2
    batches = {name: trainer.put(small.batch(trainer.config, name)) for name in small.CLASS_NAMES}
    jax.monitoring.register_event_duration_secs_listener(listener := lambda event, *_, **__: seen.append(event))
    try:
        for name, batch in batches.items():
            trainer.step({name: batch})
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert len(trainer.traces) == 2 and not [event for event in seen if "backend_compile" in event]


def test_a_program_that_cannot_be_compiled_does_not_stop_the_others():
    def refuse():
        raise RuntimeError("too large")

    done = compilation.compile_side_by_side({"sound": types.SimpleNamespace(compile=lambda: 1),
                                             "large": types.SimpleNamespace(compile=refuse)})  # fmt: skip
    assert done["sound"].result() == 1
    with pytest.raises(RuntimeError, match="too large"):
        done["large"].result()


def test_each_program_that_is_done_is_told_and_the_number_of_threads_is_limited(monkeypatch):
    """The timeout of compilation starts again with each of them; each compiler needs memory."""
    pools, left, threads = [], [], compilation.concurrent.futures.ThreadPoolExecutor
    monkeypatch.setattr(compilation.os, "cpu_count", lambda: 112)
    monkeypatch.setattr(
        compilation.concurrent.futures, "ThreadPoolExecutor", lambda most: pools.append(most) or threads(most)
    )
    programs = {number: types.SimpleNamespace(compile=lambda number=number: number) for number in range(12)}
    done = compilation.compile_side_by_side(programs, left.append)
    assert left == list(range(11, -1, -1)) and pools == [compilation.MAX_SIDE_BY_SIDE]
    assert {key: future.result() for key, future in done.items()} == {number: number for number in range(12)}
