"""Several heads per dataset: each has its own loss, and they are right together or not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cover_jax.config import checks
from cover_jax.errors import ConfigError
from cover_jax.tasks import registry
from cover_jax.tasks.head_list import HeadList
from tests.helpers import small

TASK = registry.named("multihead", "verb:3, noun:4:0.5")


def answers(*pairs):
    """Of each (verb, noun) the targets, [B, 7]; None: not known."""
    found = np.zeros((len(pairs), 7), np.float32)
    for row, (verb, noun) in zip(found, pairs, strict=True):
        row[[label for label in (verb, None if noun is None else 3 + noun) if label is not None]] = 1
    return jnp.asarray(found)


LOGITS = jax.random.normal(jax.random.key(0), (3, 7))
LABELS = [(0, 3), (2, 1), (1, None)]


def test_the_loss_is_the_weighted_sum_of_the_heads():
    targets = TASK.targets(answers(*LABELS), 7, 0.1)
    verb = optax.softmax_cross_entropy(LOGITS[:, :3], optax.smooth_labels(jax.nn.one_hot([0, 2, 1], 3), 0.1))
    noun = optax.softmax_cross_entropy(LOGITS[:, 3:], optax.smooth_labels(jax.nn.one_hot([3, 1, 0], 4), 0.1))
    noun = noun.at[2].set(0)  # its noun is not known
    np.testing.assert_allclose(TASK.loss(LOGITS, targets), verb + 0.5 * noun, rtol=1e-6)


def test_a_label_that_is_not_known_gives_no_gradient_to_its_head():
    targets = TASK.targets(answers(*LABELS), 7, 0.1)
    gradient = jax.grad(lambda logits: TASK.loss(logits, targets).sum())(LOGITS)
    np.testing.assert_array_equal(gradient[2, 3:], 0)
    assert (np.abs(gradient[2, :3]) > 1e-3).all() and (np.abs(gradient[:2]) > 1e-4).all()


def test_each_head_has_a_softmax_of_its_own():
    found = np.asarray(TASK.probabilities(LOGITS))
    np.testing.assert_allclose(found[:, :3].sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(found[:, 3:], jax.nn.softmax(LOGITS[:, 3:]), rtol=1e-6)


def test_all_heads_are_right_or_the_clip_is_wrong():
    logits = jnp.log(jnp.array([[0.8, 0.1, 0.1, 0.1, 0.1, 0.1, 0.7]] * 3))  # says verb 0, noun 3
    labels = [(0, 3), (0, 1), (1, 3)]
    np.testing.assert_array_equal(TASK.hits(logits, answers(*labels)), [1, 0, 0])
    batch = {"targets": answers(*labels)}
    fields = TASK.predict(TASK.probabilities(logits), batch) | {"index": np.arange(3), "label": np.array([0, 0, 1])}
    said = TASK.make({key: np.asarray(value) for key, value in fields.items()})
    found = said.accuracies(7)
    assert found["joint_top1"] == pytest.approx(1 / 3) and found["verb_top1"] == pytest.approx(2 / 3)
    assert found["noun_top1"] == pytest.approx(2 / 3) and "noun_top5" not in found  # it has only four classes
    assert found.keys() == TASK.titles.keys()  # so config.best_metric cannot name what no evaluation has
    assert TASK.told(said, 1) == ([(0, pytest.approx(0.8)), (4, pytest.approx(0.1))], [(6, pytest.approx(0.7))])
    unpublished = dataclasses.replace(said, labels=np.full((3, 2), -1))
    assert TASK.told(unpublished, 1) == ([], [])
    assert np.isnan(unpublished.accuracies(7)["joint_top1"]) and np.isnan(TASK.difference(unpublished, said)[0])
    assert registry.of_predictions(said).titles == TASK.titles
    weighted = said.of_heads["verb"][1].loss + 0.5 * said.of_heads["noun"][1].loss
    assert said.loss == pytest.approx(weighted)


def test_examples_without_all_labels_have_no_part_in_joint_top1():
    fields = {key: np.zeros((4, 2), dtype) for key, dtype in TASK.stored.items() if key not in ("index", "label")}
    said = TASK.make(fields | {"index": np.arange(4), "label": np.zeros(4, int)})
    said = dataclasses.replace(said, labels=np.array([[0, 0], [0, 1], [0, -1], [-1, -1]]))
    assert said.accuracies(7)["joint_top1"] == 0.5 and said.accuracies(7)["verb_top1"] == 1.0
    assert TASK.measure(said) == (0.5, pytest.approx((0.5 * 0.5 / 2) ** 0.5))
    assert said.scalars(7)["examples_left_out"] == 2
    assert TASK.row("epic", 7, said)["examples"] == "4 (joint: 2)"
    other = dataclasses.replace(said, top1=np.ones((4, 2), int))
    assert TASK.difference(said, other)[0] == 0.5  # the first is right, the second is wrong in both


@pytest.mark.parametrize("text", ["verb", "verb:0", "verb:3, verb:4", "verb:3 noun:4", "verb:3:x"])
def test_a_text_that_is_not_a_list_of_heads_is_refused(text):
    with pytest.raises(ValueError, match="must be HEAD:CLASSES"):
        HeadList.parse(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "multihead"}, "images.heads='': must name the heads, such as"),
        ({"heads": "verb:3"}, "images.heads='verb:3': is for task='multihead'; task is 'multiclass'"),
        ({"task": "multihead", "heads": "verb:3, noun:4", "num_classes": 5}, "num_classes=5: its heads have 7 classes"),
        ({"task": "several"}, "images.task='several': must be one of 'multiclass', 'multilabel', 'multihead'"),
    ],
)
def test_a_task_and_heads_that_do_not_fit_are_refused(changes, message):
    config = small.config()
    config.datasets.images.update(changes)
    with pytest.raises(ConfigError, match=message):
        checks.validate(config)


def test_names_of_classes_tell_the_heads():
    assert HeadList.of_names(("verb: cut", "verb: take", "noun: board:cutting")) == {"verb": 2, "noun": 1}
    assert HeadList.of_names(("verb: cut", "noun: cup", "verb: take")) == {}
    assert HeadList.of_names(("running", "verb: cut")) == {}
