"""The evaluator: every example of a split once, whatever the batch size and the number of devices."""

import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import pytest

from cover_jax.evaluation import evaluator
from cover_jax.parallel import sharding
from data_pipelines.stream import records
from tests.helpers import small

DATA = pathlib.Path(__file__).parents[1] / "golden" / "run" / "data"


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    data = shutil.copytree(DATA, tmp_path_factory.mktemp("golden") / "data")  # opening may renew its indices
    return records.open_split("image_folder/stills", "validation", str(data))


def predict(_, batch):
    """Predictions from the pixels alone."""
    brightness = jax.numpy.mean(batch["frames"].astype(float), axis=(1, 2, 3, 4))
    fields = {"top1": batch["label"], "hit5": batch["label"] == 0, "label_probability": brightness}
    fields |= {"top1_probability": brightness} | {key: batch[key] for key in ("index", "label", "weight")}
    return {"images": fields}


def evaluate(split, devices, batch_size):
    config = small.config()
    config.datasets.images.update({"eval_batch_size": batch_size, "canvas_px": (32, 32)})
    config.datasets.images.update({"num_frames": 1, "sample_fps": 0.0})
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:devices])
    return evaluator.Evaluator(config, {"images": jax.jit(predict)}, {"images": split}, mesh)(None)["images"]


@pytest.mark.parametrize(("devices", "batch_size"), [(8, 1), (8, 3), (3, 7)])
def test_a_batch_of_any_size_gives_the_same_predictions(split, devices, batch_size):
    found, whole = evaluate(split, devices, batch_size), evaluate(split, 1, split.num_examples)
    assert found.index.tolist() == list(range(split.num_examples))
    for name, values in dataclasses.asdict(found).items():
        np.testing.assert_array_equal(values, getattr(whole, name), err_msg=name)
    assert found.scalars(10) == whole.scalars(10)
