"""Which features of a record hold its labels, and the names of their classes."""

from collections.abc import Collection, Mapping

import tensorflow_datasets as tfds

ONE, SEVERAL = "label", "labels"  # features: the class of a record; any number of classes of a record
SEPARATOR = ";"  # between the classes of a record, in texts


def find(features: Mapping[str, tfds.features.FeatureConnector]) -> dict[str, tfds.features.ClassLabel]:
    """Label feature -> its ClassLabel, which has the names of the classes; {} if there are no names."""
    if are_several(features):
        labels = features[SEVERAL]
        is_named = isinstance(labels, tfds.features.Sequence) and isinstance(labels.feature, tfds.features.ClassLabel)
        return {SEVERAL: labels.feature} if is_named else {}
    label = features.get(ONE)
    return {ONE: label} if isinstance(label, tfds.features.ClassLabel) else {}


def are_several(features: Collection[str]) -> bool:
    """Whether a record with these features may have any number of classes. With both label features it has one."""
    return SEVERAL in features and ONE not in features


def make(class_names: tuple[str, ...] | None, several: bool) -> dict[str, tfds.features.FeatureConnector]:
    """The label feature of a record; `class_names` are None if they are set later."""
    names = tfds.features.ClassLabel(names=None if class_names is None else list(class_names))
    return {SEVERAL: tfds.features.Sequence(names)} if several else {ONE: names}
