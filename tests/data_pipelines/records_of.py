"""Reads a prepared dataset by TFDS alone, as somebody else would."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from data_pipelines import catalog


def info_of(name: str, data_dir) -> tfds.core.DatasetInfo:
    return tfds.builder_from_directory(catalog.dataset_dir(name, str(data_dir))).info


def records_of(name: str, split: str, data_dir) -> dict[str, dict]:
    """The records of a split by their source, frames still encoded."""
    builder = tfds.builder_from_directory(catalog.dataset_dir(name, str(data_dir)))
    decoders = {"frames": tfds.decode.SkipDecoding()} if "frames" in builder.info.features else None
    read = builder.as_dataset(split, decoders=decoders)
    return {record["source"].decode(): record for record in read.as_numpy_iterator()}


def labels_and_levels_of(name: str, split: str, data_dir) -> dict[str, tuple[str | None, int]]:
    """Source -> class, None if that is not known, and the grey of the first frame."""
    names = info_of(name, data_dir).features["label"]
    return {
        source: (names.int2str(record["label"]) if record["label"] >= 0 else None, _level(record["frames"][0]))
        for source, record in records_of(name, split, data_dir).items()
    }


def _level(jpeg: bytes) -> int:
    return round(float(np.asarray(Image.open(io.BytesIO(jpeg))).mean()))
