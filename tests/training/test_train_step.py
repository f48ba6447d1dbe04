"""The pure training step: what moves, what must not, and that pieces and masks change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cover_jax.evaluation import eval_step
from cover_jax.training import optimizer, train_step
from tests.helpers import small


def params_of(trainer):
    return jax.device_get(trainer.state.params)


def changed(before, after) -> bool:
    return any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))


def distance(a, b) -> float:
    return max(float(np.max(np.abs(x - y))) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_a_step_on_one_dataset_leaves_the_other_head_alone():
    trainer = small.Trainer(small.config(optimizer__weight_decay=0.0))
    before = params_of(trainer)
    trainer("video")
    after = params_of(trainer)
    assert changed(before["heads"]["video"], after["heads"]["video"])
    assert not changed(before["heads"]["images"], after["heads"]["images"])
    trainer("images")  # a head of zeros gives the backbone no gradient: the second step is the first to move it
    trainer("images")
    assert changed(after["backbone"], params_of(trainer)["backbone"])


SUMMED = {  # a step moves by the learning rate times the gradient
    "optimizer__momentum": 0.0, "optimizer__clip_norm": 0.0, "model__drop_path": 0.0,
    "datasets__images__loss_weight": 0.25,
}  # fmt: skip


def test_joint_step_sums_losses_by_weight():
    """One joint step = the sum of the single gradients, each times its loss_weight."""
    config = small.config(**SUMMED)
    moved = {}
    for names in (("images",), ("video",), ("images", "video")):
        trainer = small.Trainer(config)
        trainer.state = trainer.state.replace(params=noisy(trainer.state.params))
        before = params_of(trainer)
        trainer(*names)
        moved[names] = jax.tree.map(np.subtract, params_of(trainer), before)
    summed = jax.tree.map(np.add, moved["images",], moved["video",])
    assert distance(moved["images", "video"], summed) < 1e-6


def noisy(params):
    """Parameters whose heads are not zero, so that gradients flow."""
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    return jax.tree.unflatten(
        treedef, [x + 0.05 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    )


def test_loss_weight_scales_the_gradient():
    norms = {}
    for weight in (1.0, 0.5):
        trainer = small.Trainer(small.config(datasets__video__loss_weight=weight))
        norms[weight] = trainer("video")["scalars"]["grad_norm"]
    assert norms[0.5] == pytest.approx(norms[1.0] / 2, rel=1e-5)


def test_a_masked_example_equals_a_dropped_one():
    """Weight 0, with garbage for pixels and label, moves the parameters exactly as a batch without the example."""
    results = []
    for garbage in (0, 1):
        trainer = small.Trainer(small.config(model__drop_path=0.0))
        batch = small.batch(trainer.config, "video")
        batch["weight"][3] = 0
        if garbage:
            batch["frames"][3], batch["label"][3], batch["seed"][3] = 255, 2, 7
        measured = trainer.step({"video": trainer.put(batch)})
        results.append((params_of(trainer), measured["video/loss"]))
        assert measured["video/loss"][1] == 7
    assert not changed(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_the_label_of_a_mirrored_clip_is_its_other_side():
    """All clips are "left" and the head says "right": right for those that were mirrored, wrong for the others."""
    hits = {}
    for flip in (False, True):
        trainer = small.Trainer(small.config(datasets__video__augment__flip=flip, datasets__video__batch_size=32))
        trainer.state.params["heads"]["video"]["bias"] = jnp.array([0.0, 1.0, 0.0])
        batch = small.batch(trainer.config, "video")
        batch["label"][:] = 0
        hits[flip], _ = trainer.step({"video": trainer.put(batch)})["video/top1"]
    assert hits[False] == 0
    assert 6 < hits[True] < 26


@pytest.mark.parametrize("names", [pytest.param(("video",), marks=pytest.mark.slow), ("images", "video")])
def test_accumulation_changes_nothing(names):
    """Two pieces of 4 give the gradients of one batch of 8, padding included."""
    results = []
    for pieces in (1, 2, 4):
        trainer = small.Trainer(small.config(model__drop_path=0.0, optimizer__grad_accum_steps=pieces))
        batches = {name: small.batch(trainer.config, name) for name in names}
        for batch in batches.values():
            batch["weight"][5] = 0
        trainer.step({name: trainer.put(batch) for name, batch in batches.items()})
        measured = trainer.step({name: trainer.put(batch) for name, batch in batches.items()})
        results.append((params_of(trainer), measured["video/loss"], measured["scalars"]["grad_norm"]))
    for other in results[1:]:
        assert distance(results[0][0], other[0]) < 1e-6
        assert other[1][0] == pytest.approx(results[0][1][0], rel=1e-5)
        assert other[2] == pytest.approx(results[0][2], rel=1e-5)


def test_ema_follows():
    trainer = small.Trainer(small.config(optimizer__ema_decay=0.75))
    before = params_of(trainer)
    assert not changed(before, jax.device_get(trainer.state.ema))
    trainer("video")
    expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, before, params_of(trainer))
    assert distance(expected, jax.device_get(trainer.state.ema)) < 1e-7
    assert trainer.state.eval_params is trainer.state.ema


def test_the_average_of_what_stands_still_is_bit_for_bit_what_it_was():
    trainer = small.Trainer(small.config(optimizer__ema_decay=0.9, optimizer__frozen="backbone/.*"))
    before = jax.device_get(trainer.state.ema["backbone"])
    trainer("video")
    assert not changed(before, jax.device_get(trainer.state.ema["backbone"]))


def test_heads_alone_are_trained_without_a_backward_pass_through_the_backbone():
    def flops(step, *args) -> float:
        return step.lower(*args).compile().cost_analysis()["flops"]

    trainer, heads_only = (small.Trainer(small.config(optimizer__frozen=frozen)) for frozen in ("", "backbone/.*"))
    batch = trainer.put(small.batch(trainer.config, "video"))
    forward = jax.jit(eval_step.make_eval_step(trainer.config, trainer.model, "video"))
    needed = flops(forward, trainer.state.params, batch)
    assert flops(heads_only.jitted, heads_only.state, {"video": batch}) < 1.05 * needed
    assert flops(trainer.jitted, trainer.state, {"video": batch}) > 2.5 * needed


def test_without_ema_the_parameters_are_evaluated():
    trainer = small.Trainer(small.config())
    assert trainer.state.ema == {}
    assert trainer.state.eval_params is trainer.state.params


def test_a_step_that_is_not_finite_changes_only_counters():
    trainer = small.Trainer(small.config(optimizer__ema_decay=0.75))
    trainer("video")
    poisoned = jax.tree.map(jnp.copy, trainer.state)
    bad_head = poisoned.params["heads"]["video"]["kernel"].at[0, 0].set(jnp.inf)
    poisoned.params["heads"]["video"]["kernel"] = bad_head
    trainer.state = poisoned
    before = jax.device_get(trainer.state)
    measured = trainer("video")
    after = jax.device_get(trainer.state)
    for part in ("params", "opt_state", "ema"):
        assert not changed(getattr(before, part), getattr(after, part)), part
    assert (after.step, after.skipped, after.skipped_in_a_row) == (2, 1, 1)
    assert measured["scalars"]["skipped_in_a_row"] == 1
    trainer("images")  # the other head is sound
    assert (int(trainer.state.skipped), int(trainer.state.skipped_in_a_row)) == (1, 0)


def test_one_compilation_for_each_set_of_datasets():
    trainer = small.Trainer(small.config(**SUMMED))  # its traces are counted from the first test with this config on
    for names in (("video",), ("images",), ("images", "video")) * 3:
        trainer(*names)
    assert sorted(trainer.traces) == [["images"], ["images", "video"], ["video"]]


def test_the_same_seed_gives_the_same_run_and_another_does_not():
    runs = []
    for seed in (0, 0, 1):
        trainer = small.Trainer(small.config(seed=seed))
        for step in range(3):
            trainer("video", seed=step)
        runs.append(params_of(trainer))
    assert not changed(runs[0], runs[1])
    assert changed(runs[0], runs[2])


def test_drop_path_differs_from_step_to_step():
    trainer = small.Trainer(small.config(model__drop_path=0.9, optimizer__learning_rate=1e-30))
    trainer.state = trainer.state.replace(params=noisy(trainer.state.params))
    losses = [trainer("video")["video/loss"][0] for _ in range(2)]
    assert losses[0] != losses[1]


def test_eval_step_averages_probabilities_over_views():
    config = small.config(datasets__video__eval_clips=2, datasets__video__eval_crops=3)
    config.datasets.video.canvas_px = (8, 16)
    trainer = small.Trainer(config)
    params = noisy(trainer.state.params)
    batch = small.batch(config, "video")
    two = np.concatenate([batch["frames"], batch["frames"][:, ::-1]], axis=1)  # two clips of two frames
    said = jax.jit(eval_step.make_eval_step(config, trainer.model, "video"))(params, batch | {"frames": two})["video"]
    probabilities = 0
    for clip in (batch["frames"], batch["frames"][:, ::-1]):
        for left in (0, 4, 8):
            frames = jnp.asarray(clip[:, :, :, left : left + 8], jnp.float32) / 255 * 2 - 1
            probabilities += jax.nn.softmax(trainer.model.apply(params, frames, "video"))
    np.testing.assert_array_equal(said["top1"], jnp.argmax(probabilities, axis=-1))
    np.testing.assert_array_equal(said["index"], batch["index"])
    means = np.asarray(probabilities) / 6
    np.testing.assert_allclose(said["label_probability"], means[np.arange(len(means)), batch["label"]], rtol=1e-5)
    np.testing.assert_allclose(said["top1_probability"], means.max(axis=1), rtol=1e-5)
    assert np.all(np.asarray(said["hit5"]) == 1)  # of three classes, five are always enough


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_datasets_learning_rate_scales_the_whole_update_and_nothing_else(name):
    """Clipping, momentum, weight decay, layer decay and the schedule come before it."""
    config = small.config().optimizer
    config.update({"name": name, "weight_decay": 0.1, "clip_norm": 0.5, "learning_rate": 0.1})
    params = {"backbone": {"kernel": jnp.array([1.0, -2.0, 3.0])}, "heads": {"a": {"kernel": jnp.array([4.0])}}}
    tx = optimizer.make_optimizer(config, optimizer.make_schedule(config, steps=10), params)
    zero = jnp.zeros((), jnp.int32)
    state = train_step.TrainState(zero, params, tx.init(params), params, zero, zero)
    grads = jax.tree.map(lambda p: p + 1, params)
    whole, quarter = (train_step._update(state, grads, jnp.array(True), tx, 0.75, scale) for scale in (1.0, 0.25))
    for before, one, other in zip(*map(jax.tree.leaves, (params, whole.params, quarter.params)), strict=True):
        np.testing.assert_allclose(other - before, (one - before) / 4, rtol=1e-5)
    for before, other, average in zip(*map(jax.tree.leaves, (params, quarter.params, quarter.ema)), strict=True):
        np.testing.assert_allclose(average, before + (other - before) / 4, rtol=1e-6)
    assert not changed(whole.opt_state, quarter.opt_state)


def test_each_step_has_the_learning_rate_of_its_dataset():
    """With a clipped gradient in two pieces; loss_weight has no effect there."""
    moved = {}
    for scale, loss_weight in ((1.0, 1.0), (0.25, 7.0)):
        trainer = small.Trainer(
            small.config(
                model__drop_path=0.0, optimizer__grad_accum_steps=2, optimizer__clip_norm=1e-3,
                datasets__video__learning_rate_scale=scale, datasets__video__loss_weight=loss_weight,
            )
        )  # fmt: skip
        for name in ("video", "images"):
            before = params_of(trainer)
            trainer(name)
            moved[name, scale] = jax.tree.map(np.subtract, params_of(trainer), before)["heads"][name]
    video, quarter = (moved["video", scale] for scale in (1.0, 0.25))
    assert distance(jax.tree.map(lambda leaf: leaf / 4, video), quarter) < 1e-6 < distance(video, quarter)
    assert distance(moved["images", 1.0], moved["images", 0.25]) < 1e-6


def test_drop_path_of_a_dataset_takes_the_place_of_the_models():
    results, rates_of = [], []
    for rates in ({"model__drop_path": 0.0}, {"model__drop_path": 0.5, "datasets__video__drop_path": 0.0}):
        trainer = small.Trainer(small.config(**rates))
        trainer.state = trainer.state.replace(params=noisy(trainer.state.params))
        trainer("video")
        results.append(params_of(trainer))
        rates_of.append([train_step.drop_path(trainer.config, name) for name in ("images", "video")])
    assert not changed(*results)
    assert rates_of == [[0.0, 0.0], [0.5, 0.0]]
