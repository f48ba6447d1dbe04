"""How well the backbone's features alone tell the classes: the nearest training examples vote, nothing is trained.

Weighted k-nearest neighbours as in DINO (arXiv 2104.14294; facebookresearch/dino, eval_knn.py): cosine similarity of
CLS features, and a vote of exp(similarity / temperature) from each of the k nearest training examples.

An evaluation reads the whole training split once, as evaluation sees it: without augmentation.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cover_jax.config import plugins
from cover_jax.evaluation import evaluators, features
from cover_jax.fault_tolerance import process
from cover_jax.parallel import compilation
from cover_jax.tasks import metrics, registry
from data_pipelines.stream import mixture, records

# Q queries, N training examples in the bank, D width, K neighbours, C classes

QUERIES, BANK = 512, 16384  # of one product on the device: 32 MiB of similarities


def make(run: evaluators.EvaluatedRun) -> evaluators.Measure:
    """Measures knn_top1, 0..1, with its standard error, of each evaluated dataset whose clips have one class."""
    datasets, settings = run.config.datasets, run.config.knn
    measures = plugins.EVALUATORS["knn"].measures
    users = {name: used for name, used in mixture.by_clip_source(datasets).items() if name in run.eval_splits}
    names = [name for name in users if measures(registry.of(datasets[name]).main_metric)]
    steps = {name: features.make_step(run.model, run.config, name, run.mesh) for name in names}

    def measure(params) -> dict[str, float]:
        found: dict[str, float] = {}
        for name in names:
            bank, queries = (
                _features(run, steps[name], params, name, one)
                for one in (run.train_splits[name], run.eval_splits[name])
            )
            label_Q = predict(queries.features_ND, bank, settings.neighbours, settings.temperature)
            top1 = float(np.mean(label_Q == queries.label_N))
            error = metrics.binomial_error(top1, len(label_Q))
            found |= {
                f"{user}/{kind}": value
                for user in users[name]
                for kind, value in (("knn_top1", top1), ("knn_top1_error", error))
            }
        return found

    return measure


def _features(
    run: evaluators.EvaluatedRun, step: Callable[[dict, dict], dict], params, name: str, split: records.Split
) -> features.Labelled:
    """The features of one split, in a phase of its own: a training split may take as long as all evaluations."""
    process.enter_phase("evaluation", f"knn of {name}: features of {split.split}")
    return features.of_split(step, params, split, run.config.datasets[name], run.config, run.mesh)


def predict(queries_QD: np.ndarray, bank: features.Labelled, neighbours: int, temperature: float) -> np.ndarray:
    """The class of each query, int [Q]: the one with the most votes; of equal ones the lowest.

    Args:
        queries_QD: features, of any length.
        bank: training examples.
        neighbours: K; all examples of a smaller bank vote.
        temperature: the smaller, the more the nearest neighbours count.
    """
    similarity_QK, label_QK = nearest(_unit(queries_QD), _unit(bank.features_ND), bank.label_N, neighbours)
    votes_QC = np.zeros((len(queries_QD), int(bank.label_N.max()) + 1))
    # The largest similarity of each row is taken off first: exp of a small temperature's would overflow.
    vote_QK = np.exp((similarity_QK - similarity_QK[:, :1]).astype(np.float64) / temperature)
    np.add.at(votes_QC, (np.arange(len(votes_QC))[:, None], label_QK), vote_QK)
    return np.argmax(votes_QC, axis=1)


def nearest(
    queries_QD: np.ndarray, bank_ND: np.ndarray, label_N: np.ndarray, neighbours: int
) -> tuple[np.ndarray, np.ndarray]:
    """Similarity and label of the nearest examples of the bank, both [Q, K], the nearest first.

    The products are computed on JAX's default device, in chunks of QUERIES x BANK. Arguments as in `predict`; the rows
    have length 1.
    """
    neighbours = min(neighbours, len(bank_ND))
    size = min(BANK, -(-len(bank_ND) // neighbours) * neighbours)
    rest = -len(bank_ND) % size
    bank_ND, label_N = np.pad(bank_ND, ((0, rest), (0, 0))), np.pad(label_N, (0, rest), constant_values=-1)
    merge = compilation.jit(_merge)
    parts = []
    for start in range(0, len(queries_QD), QUERIES):
        part_QD = queries_QD[start : start + QUERIES]
        padded_QD = np.pad(part_QD, ((0, min(QUERIES, len(queries_QD)) - len(part_QD)), (0, 0)))
        best = np.full((len(padded_QD), neighbours), -np.inf, np.float32), np.full((len(padded_QD), neighbours), -1)
        for first in range(0, len(bank_ND), size):
            best = merge(*best, padded_QD, bank_ND[first : first + size], label_N[first : first + size])
        parts.append([np.asarray(array)[: len(part_QD)] for array in jax.device_get(best)])
    similarity_QK, label_QK = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return similarity_QK, label_QK


def _merge(similarity_QK, label_QK, queries_QD, bank_ND, label_N):
    """The nearest so far, and those of one more part of the bank; a label of -1 is padding."""
    product_QN = jnp.dot(queries_QD, bank_ND.T, precision=jax.lax.Precision.HIGHEST)
    product_QN = jnp.where(label_N >= 0, product_QN, -jnp.inf)
    candidates = jnp.concatenate([similarity_QK, product_QN], axis=1)
    labels = jnp.concatenate([label_QK, jnp.broadcast_to(label_N, product_QN.shape)], axis=1)
    best_QK, where_QK = jax.lax.top_k(candidates, similarity_QK.shape[1])
    return best_QK, jnp.take_along_axis(labels, where_QK, axis=1)


def _unit(features_ND: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return features_ND / np.maximum(np.linalg.norm(features_ND, axis=1, keepdims=True), 1e-12)
