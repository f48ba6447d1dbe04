"""Which feature of a record has its labels, also in datasets of others."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data_pipelines.leaks import facts
from data_pipelines.sources import label_features
from data_pipelines.stream.host_tf import tf

NAMES = tfds.features.ClassLabel(names=["run", "sit"])
SEVERAL = tfds.features.Sequence(tfds.features.ClassLabel(names=["x"]))


@pytest.mark.parametrize(
    ("features", "found", "several"),
    [
        ({"label": NAMES}, ["label"], False),
        ({"labels": SEVERAL}, ["labels"], True),
        ({"label": NAMES, "labels": SEVERAL}, ["label"], False),  # as before datasets could have several labels
        ({"label": NAMES, "labels": tfds.features.Text()}, ["label"], False),
        ({"labels": tfds.features.Text()}, [], True),
    ],
)
def test_a_dataset_with_a_label_has_one_whatever_else_it_has(features, found, several):
    assert list(label_features.find(features)) == found
    assert label_features.are_several(features) == several


def test_texts_called_labels_do_not_make_a_record_of_one_label_damaged(tmp_path):
    jpeg = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), 80, np.uint8)).save(jpeg, "JPEG")
    values = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg.getvalue()])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[1])),
        "labels": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"a word"])),
    }
    with tf.io.TFRecordWriter(str(tmp_path / "shard")) as writer:
        writer.write(tf.train.Example(features=tf.train.Features(feature=values)).SerializeToString())
    found = facts._measure_shard(str(tmp_path / "shard"), "image", several_labels=False)
    assert (found["reason"].tolist(), found["label"].tolist(), found["num_labels"].tolist()) == ([b""], [1], [0])
