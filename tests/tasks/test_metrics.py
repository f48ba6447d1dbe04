"""Losses and accuracies: what pads a batch weighs nothing, and ties and NaN are no hits by accident."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cover_jax.errors import ConfigError
from cover_jax.tasks import metrics, registry
from cover_jax.training import train_step


def cross_entropy(logits, targets, weight):
    return train_step.weighted_sum(registry.named("multiclass").loss(logits, targets), weight)


def test_cross_entropy_against_numbers_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    total, count = cross_entropy(logits, jax.nn.one_hot(jnp.array([0, 1]), 3), jnp.array([1.0, 2.0]))
    np.testing.assert_allclose([total, count], [np.log(2) + 2 * np.log(1 / 0.8), 3.0], rtol=1e-6)


def test_a_masked_example_equals_a_dropped_one():
    logits, targets = jax.random.normal(jax.random.key(0), (4, 5)), jax.nn.one_hot(jnp.arange(4), 5)
    masked = cross_entropy(logits.at[3].set(jnp.nan), targets, jnp.array([1.0, 1, 1, 0]))
    dropped = cross_entropy(logits[:3], targets[:3], jnp.ones(3))
    np.testing.assert_array_equal(masked, dropped)


def test_top_k_hits():
    scores = jnp.array([[0.1, 0.5, 0.4], [0.1, 0.5, 0.4], [0.1, 0.5, 0.4]])
    label = jnp.array([0, 1, 2])
    np.testing.assert_array_equal(metrics.top_k_hits(scores, label, 1), [0, 1, 0])
    np.testing.assert_array_equal(metrics.top_k_hits(scores, label, 2), [0, 1, 1])
    np.testing.assert_array_equal(metrics.top_k_hits(scores, label, 5), [1, 1, 1])


def test_equal_scores_are_a_hit_for_one_class_only():
    assert metrics.top_k_hits(jnp.zeros((4, 4)), jnp.arange(4), 1).sum() == 1


def test_nan_scores_are_no_hits():
    assert metrics.top_k_hits(jnp.full((2, 4), jnp.nan), jnp.array([0, 3]), 5).sum() == 0


def test_sums_are_merged_and_divided_last():
    total = metrics.merge({"a": (1.0, 2.0)}, {"a": (2.0, 1.0), "b": (1.0, 0.0)})
    assert total == {"a": (3.0, 3.0), "b": (1.0, 0.0)}
    values = metrics.divide(total)
    assert values["a"] == 1.0
    assert np.isnan(values["b"])


@pytest.fixture
def predictions():
    label, top1, hit5 = np.array([[0, 0, 0, 1, 2], [0, 0, 1, 1, 0], [1, 1, 1, 1, 0]])
    sure = np.full(5, 0.5, np.float32)
    return metrics.Predictions(np.arange(5), label, top1, hit5, label_probability=sure, top1_probability=sure)


def test_accuracies(predictions):
    assert predictions.accuracies(6) == pytest.approx({"top1": 0.6, "top5": 0.8, "mean_class": (2 / 3 + 1 + 0) / 3})


def test_top5_is_an_accuracy_of_more_than_five_classes_only(predictions):
    assert predictions.accuracies(5) == pytest.approx({"top1": 0.6, "mean_class": 5 / 9})
    assert [metrics.accuracy_row("a", n, predictions)["top-5"] for n in (5, 6)] == ["", "80.0 ± 17.9%"]
    metrics.check_best_metric("a/top5", {"a": 6})
    metrics.check_best_metric("mean_top1", {"a": 2})
    with pytest.raises(
        ConfigError, match="config.best_metric='a/top5': a has 5 classes, .*; must be mean_top1, a/top1"
    ):
        metrics.check_best_metric("a/top5", {"a": 5})


def test_standard_errors_by_hand(predictions):
    equal = 9 / (1 / 3 + 1 + 1)  # harmonic mean of 3, 1 and 1 examples, of each of 3 classes
    expected = {"top1": math.sqrt(0.6 * 0.4 / 5), "mean_class": math.sqrt(5 / 9 * 4 / 9 / equal)}
    assert predictions.errors(3) == pytest.approx(expected)
    assert metrics.percent(0.76, 0.0252) == "76.0 ± 2.5%" and metrics.percent(0.76, None) == "76.0%"


def test_the_error_is_the_spread_of_accuracies_over_draws_of_examples():
    accuracies = np.random.default_rng(0).binomial(300, 0.8, 20_000) / 300
    assert metrics.binomial_error(0.8, 300) == pytest.approx(accuracies.std(), rel=0.02)


def test_all_right_is_no_certainty():
    assert [metrics.binomial_error(p, 4) for p in (0.0, 1.0)] == pytest.approx([0.15, 0.15])
    assert metrics.binomial_error(1.0, 300) < metrics.binomial_error(299 / 300, 300)
    assert math.isnan(metrics.binomial_error(math.nan, 0))


def test_the_loss_is_that_of_the_label_and_finite():
    zeros = np.zeros(2)
    said = metrics.Predictions(zeros, zeros, zeros, zeros, np.float32([0.5, 0.0]), np.float32([0.5, 1.0]))
    assert said.loss == pytest.approx((math.log(2) + 87.3365) / 2, rel=1e-5)


def test_what_an_evaluation_stores(predictions):
    stored = {f"{name}/{key}": value for name in "ab" for key, value in predictions.scalars(3).items()}
    found = metrics.with_means(stored, {"mean_top1": ["a/top1", "b/top1"]})
    assert found["mean_top1"] == 0.6 and found["a/examples"] == 5 and found["a/loss"] == pytest.approx(math.log(2))
    assert found["mean_top1_error"] == pytest.approx(math.sqrt(0.6 * 0.4 / 10))
    assert metrics.Predictions(*np.zeros((6, 0), int)).scalars(6)["examples"] == 0


def test_of_many_classes_neighbours_share_a_cell_of_the_confusion_matrix():
    rng = np.random.default_rng(0)
    label, top1 = rng.integers(0, 19_167, (2, 5_000))
    many = metrics.Predictions(np.arange(5_000), label, top1, *np.zeros((3, 5_000)))
    matrix = many.confusion(19_167)
    assert matrix.shape == (1000, 1000) and matrix.sum() == 5_000
    assert many.confusion(19_167, most_cells=2).tolist() == [
        [np.sum((label < 9584) & (top1 < 9584)), np.sum((label < 9584) & (top1 >= 9584))],
        [np.sum((label >= 9584) & (top1 < 9584)), np.sum((label >= 9584) & (top1 >= 9584))],
    ]
    per_class = [np.mean(top1[label == c] == c) for c in np.unique(label)]
    assert many.accuracies(19_167)["mean_class"] == np.mean(per_class)


def test_confusion(predictions):
    np.testing.assert_array_equal(predictions.confusion(4), [[2, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
