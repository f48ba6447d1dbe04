"""k nearest neighbours: those of a loop in NumPy, whatever the sizes of the chunks; and as part of an evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cover_jax.config import checks, plugins
from cover_jax.evaluation import evaluators, features, knn
from cover_jax.fault_tolerance import process
from cover_jax.parallel import sharding
from tests.evaluation import test_evaluator
from tests.helpers import small

split = test_evaluator.split


def by_hand(queries, bank, labels, neighbours, temperature):
    """DINO's vote, one query after another."""
    unit = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    found = []
    for query in queries:
        similarity = unit @ query / np.linalg.norm(query)
        nearest = np.argsort(-similarity, kind="stable")[:neighbours]
        votes = np.zeros(labels.max() + 1)
        for index in nearest:
            votes[labels[index]] += np.exp(similarity[index] / temperature)
        found.append(np.argmax(votes))
    return np.array(found)


@pytest.mark.parametrize(("queries", "bank", "neighbours"), [(3, 4, 6), (7, 8, 5), (512, 16384, 5)])
def test_neighbours_are_those_of_a_loop(monkeypatch, queries, bank, neighbours):
    """Chunks that divide nothing, chunks smaller than the number of neighbours, one chunk of all."""
    monkeypatch.setattr(knn, "QUERIES", queries)
    monkeypatch.setattr(knn, "BANK", bank)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 21)
    bank_ND = rng.standard_normal((21, 4)).astype(np.float32) + labels[:, None]
    queries_QD = 5 * rng.standard_normal((10, 4)).astype(np.float32)
    expected = by_hand(queries_QD, bank_ND, labels, neighbours, 0.5)
    found = knn.predict(queries_QD, features.Labelled(bank_ND, labels), neighbours, 0.5)
    assert found.tolist() == expected.tolist() and len(set(found.tolist())) > 1


def test_a_bank_smaller_than_the_number_of_neighbours_votes_as_a_whole():
    bank = features.Labelled(np.eye(3, dtype=np.float32), np.array([0, 1, 1]))
    assert knn.predict(np.array([[0.1, 1.0, 0.9]], np.float32), bank, 20, 0.07).tolist() == [1]


def test_a_small_temperature_does_not_overflow():
    bank = features.Labelled(np.eye(2, dtype=np.float32), np.array([0, 1]))
    assert knn.predict(np.array([[1.0, 0.0]], np.float32), bank, 2, 1e-4).tolist() == [0]


class Brightness:
    """A backbone whose one feature is the clip's brightness."""

    @staticmethod
    def features(params, frames_BTHWC):
        level_B = jnp.mean(frames_BTHWC, axis=(1, 2, 3, 4))
        return params * jnp.stack([level_B, jnp.ones_like(level_B)], axis=1)


def test_an_evaluation_measures_it_on_the_splits(split, monkeypatch):
    """Each validation example is in the bank: with one neighbour all are right. Several devices share the batches."""
    config = small.config(evaluators=("accuracy", "knn"), knn__neighbours=1, best_metric="images/knn_top1")
    del config.datasets["video"]
    config.datasets.images.update({"eval_batch_size": 3, "canvas_px": (32, 32), "num_frames": 1, "eval_crops": 3})
    checks.validate(config)
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:4])
    run = evaluators.EvaluatedRun(config, Brightness, {"images": split}, {"images": split}, mesh)
    (measure,) = evaluators.make(run).values()
    phases: list[tuple[str, ...]] = []
    monkeypatch.setattr(process, "enter_phase", lambda *phase: phases.append(phase))
    found = evaluators.measure_all(evaluators.make(run), jnp.float32(2.0))
    assert phases == [("evaluation", f"knn of images: features of {split.split}")] * 2  # each split has its own time
    assert found == measure(jnp.float32(2.0))
    assert found["images/knn_top1"] == 1.0 and 0 < found["images/knn_top1_error"] < 0.5


def test_the_table_has_a_column_per_metric():
    rows = evaluators.with_columns(
        [{"dataset": "a", "top-1": "90%"}, {"dataset": "b", "top-1": "80%"}],
        {"a/knn_top1": 0.5, "a/knn_top1_error": 0.1, "b/other": 2.0},
    )
    assert rows == [
        {"dataset": "a", "top-1": "90%", "knn top1": "50.0 ± 10.0%", "other": ""},
        {"dataset": "b", "top-1": "80%", "knn top1": "", "other": "2"},
    ]


@pytest.mark.parametrize("known", [plugins.EVALUATORS, plugins.LOGGERS])
def test_each_entry_has_its_module(known):
    for name, entry in known.items():
        if name not in (plugins.ACCURACY, "wandb"):
            assert callable(entry.load().make)
