"""A model's head for the classes of a dataset: by name, whatever their order; differences are named."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from cover_jax.checkpoint import metadata
from cover_jax.errors import ConfigError
from cover_jax.published import match

OWN = ["Air drumming", "bowling", "Pushing something (left)", "sky-diving", "air_drumming"]
KERNEL = np.arange(10, dtype=np.float32).reshape(2, 5)
HEAD = {"kernel": KERNEL, "bias": np.arange(5, dtype=np.float32)}


def trained(**heads):
    names = {"k400": OWN} | heads
    params = {"heads": {name: HEAD if name == "k400" else {} for name in names}}
    return metadata.TrainedModel(ConfigDict(), names, params, step=0)


def test_outputs_are_in_the_datasets_order_and_the_models_others_follow():
    head = match.match_head(trained(), "mine", ["sky diving", "bowling", "pushing [something] left"])
    assert head.class_names == ["sky diving", "bowling", "pushing [something] left", "Air drumming", "air_drumming"]
    order = [3, 1, 2, 0, 4]
    np.testing.assert_array_equal(head.params["kernel"], KERNEL[:, order])
    np.testing.assert_array_equal(head.params["bias"], order)
    assert head.lines == (
        "mine: head k400 of the model knows 3 of its 3 classes, by name",
        "mine: spelt otherwise by the model: sky diving = sky-diving, "
        "pushing [something] left = Pushing something (left)",
        "mine: the model also predicts 2 other classes: Air drumming, air_drumming",
    )


def test_a_class_that_the_model_does_not_know_is_never_predicted_and_named():
    head = match.match_head(trained(), "mine", ["yoga", "bowling", "air drumming"])  # two of the model's are like it
    features = np.random.default_rng(0).standard_normal((100, 2)).astype(np.float32) * 1e3
    logits = features @ head.params["kernel"] + head.params["bias"]
    assert not {0, 2} & set(logits.argmax(axis=1))
    assert "WARNING: mine: unknown to the model, so never predicted: yoga, air drumming" in head.lines


def test_the_head_that_knows_most_is_taken():
    heads = trained(other=["bowling"], more=["a", "b"])
    assert "head k400 of the model knows 2 of its 2" in match.match_head(heads, "x", ["bowling", "sky-diving"]).lines[0]
    with pytest.raises(ConfigError, match=r"datasets.x: no head of the model knows any of its classes \(q\); head "):
        match.match_head(heads, "x", ["q"])
