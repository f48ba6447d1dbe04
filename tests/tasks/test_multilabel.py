"""Several labels per clip: loss, targets, mirroring, mean average precision and its error, against code of others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from cover_jax.preprocess import model_input
from cover_jax.tasks import multilabel, registry
from cover_jax.training import train_step
from tests.preprocess.test_model_input import NORMALIZATION, OFF, SIDES, SIZE_PX, augment, make_batch

TASK = registry.named("multilabel")


def say(seed=0, num_examples=60, num_classes=7, places=2) -> multilabel.MultilabelPredictions:
    """Scores with many ties. No example has the last class, and some have none at all."""
    rng = np.random.default_rng(seed)
    targets = rng.random((num_examples, num_classes)) < 0.25
    targets[:, -1] = False
    scores = np.clip(0.4 * targets + 0.6 * rng.random(targets.shape), 0, 1).round(places).astype(np.float32)
    return multilabel.MultilabelPredictions(np.arange(num_examples), targets.argmax(axis=1), scores, targets)


@pytest.mark.parametrize("places", [1, 6])
def test_average_precision_is_that_of_scikit_learn(places):
    said = say(places=places)
    assert (said.targets.sum(axis=1) == 0).any()
    expected = [average_precision_score(said.targets[:, c], said.scores[:, c]) for c in range(6)]
    np.testing.assert_allclose(said.average_precisions[:6], expected, rtol=1e-12)
    assert np.isnan(said.average_precisions[6])  # no example has it, so it is not in the mean
    assert said.accuracies(7)["map"] == pytest.approx(np.mean(expected))
    best = said.scores.argmax(axis=1)
    assert said.accuracies(7)["hit1"] == np.mean([said.targets[i, c] for i, c in enumerate(best)])


def test_leaving_examples_out_of_a_ranking_is_ranking_the_others():
    said, keep = say(places=1), np.arange(60) % 3 > 0
    ranking = multilabel.Ranking(said.scores, said.targets)
    others = multilabel.Ranking(said.scores[keep], said.targets[keep])
    np.testing.assert_allclose(ranking.average_precisions(keep), others.average_precisions(np.ones(40, bool)))


def test_the_error_of_map_is_near_its_spread_over_sets_of_examples():
    found = [say(seed, num_examples=200) for seed in range(60)]
    spread = np.std([one.accuracies(7)["map"] for one in found])
    assert np.mean([one.errors(7)["map"] for one in found]) == pytest.approx(spread, rel=0.3)


def test_a_difference_of_map_has_no_error_if_there_is_none():
    said = say()
    assert TASK.difference(said, said) == (0, 0)
    rounded = say(places=1)
    difference, error = TASK.difference(said, rounded)
    assert difference == TASK.measure(said)[0] - TASK.measure(rounded)[0]
    assert 0 < error < TASK.measure(said)[1] / 2  # both have the same examples


def test_the_loss_is_the_sum_over_classes():
    logits, targets = jnp.array([[0.0, 2.0, -1.0]]), jnp.array([[1.0, 0.0, 1.0]])
    p = 1 / (1 + np.exp(-np.asarray(logits)))
    by_hand = -np.log(p[0, 0]) - np.log(1 - p[0, 1]) - np.log(p[0, 2])
    np.testing.assert_allclose(TASK.loss(logits, targets), [by_hand], rtol=1e-6)
    padded = train_step.weighted_sum(jnp.array([by_hand, jnp.nan]), jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(padded, [by_hand, 1.0], rtol=1e-6)


def test_the_saved_loss_is_that_of_the_mean_probabilities():
    said = say()
    p = np.clip(said.scores, np.finfo(np.float32).tiny, None).astype(float)
    by_hand = -np.where(said.targets, np.log(p), np.log1p(-np.minimum(p, 1 - 1e-12))).sum(axis=1)
    kept = (said.scores < 1).all(axis=1)
    np.testing.assert_allclose(said.losses[kept], by_hand[kept], rtol=1e-5)


def test_label_smoothing_goes_towards_one_half():
    np.testing.assert_allclose(TASK.targets(jnp.array([[1.0, 0.0]]), 2, 0.2), [[0.9, 0.1]], rtol=1e-6)


@pytest.fixture(scope="module")
def mirrored():
    """A batch of 60 with one to three of SIDES each, mirrored by 'swap': before, and what training gets."""
    rng = np.random.default_rng(0)
    targets = (rng.random((60, 5)) < 0.35).astype(np.float32)
    settings = model_input.TrainInput(augment(**OFF | {"flip": "swap"}), SIZE_PX, SIDES, 0.0, NORMALIZATION, task=TASK)
    batch = make_batch(60, targets=targets)
    return targets, jax.tree.map(np.asarray, jax.jit(lambda batch: model_input.train(batch, settings))(batch)), settings


def test_mirrored_clips_exchange_the_columns_of_classes_that_name_a_side(mirrored):
    """SIDES: "turn left" and "turn right" swap; a clip that has "left hook" is never mirrored."""
    targets, out, _ = mirrored
    swapped = (out["answers"] != targets).any(axis=1)
    assert 5 < swapped.sum() < 40 and not swapped[targets[:, 3] > 0].any()
    np.testing.assert_array_equal(out["answers"][swapped], targets[swapped][:, [0, 2, 1, 3, 4]])
    np.testing.assert_array_equal(out["targets"], out["answers"])


def test_mixup_mixes_the_targets_of_two_clips(mirrored):
    targets, _, settings = mirrored
    mixed = model_input.TrainInput(augment(**OFF, mixup_alpha=0.8), SIZE_PX, SIDES, 0.0, NORMALIZATION, task=TASK)
    out = jax.jit(lambda batch: model_input.train(batch, mixed))(make_batch(60, targets=targets))
    partner = targets.reshape(30, 2, 5)[:, ::-1].reshape(60, 5)
    found = np.asarray(out["targets"])
    low, high = np.minimum(targets, partner), np.maximum(targets, partner)
    assert ((found >= low - 1e-6) & (found <= high + 1e-6)).all() and ((found > low) & (found < high)).any()
    np.testing.assert_array_equal(out["answers"], targets)
