"""One stored record -> one example of a batch; a damaged record becomes zeros of weight 0, in its place.

# T frames, H, W canvas.
"""

from collections.abc import Callable

import numpy as np

from data_pipelines import decode, records
from data_pipelines.host_tf import plain, tf

PADDING_INDEX = -1  # stands for no record: zeros of weight 0


class ExampleReader:
    """A TF function: (index, seed) scalars -> a dataset of one example.

    It has `frames` uint8 [T, H, W, 3], `size_px` int32 [2], `label` int32, `weight` float32, `index` int64 and `seed`
    uint32.
    """

    def __init__(self, split: records.Split, dataset, num_frames: int, sample: Callable):
        """Checks that the records have what is needed.

        Args:
          split: what to read.
          dataset: its entry in the config.
          num_frames: T.
          sample: (frames stored, their rate, seed) -> indices of the T sampled ones.

        Raises:
          ValueError: a feature is missing.
        """
        _check_features(split, dataset)
        self._locate = records.locator(split)
        self._dataset = dataset
        self._frames_shape = (num_frames, *dataset.canvas_px, 3)
        self._sample = sample

    def __call__(self, index, seed):
        """A dataset of the one example: zeros for the padding index, and for a record that is damaged."""
        identity = {"index": index, "seed": seed}
        path, offset = self._locate(tf.maximum(index, 0))
        # Zipped with a range that comes first, the reader is asked once whatever happens. Asked again after an error,
        # as ignore_errors does, it would go on for ever on a lost shard, and give the next record after a damaged one.
        once = tf.data.Dataset.range(tf.where(index == PADDING_INDEX, np.int64(0), np.int64(1)))
        record = tf.data.Dataset.zip((once, records.read_from(path, offset)))
        good = record.map(plain(lambda _, record: self._content(record, seed) | identity))
        # Read only if there was no good one: a shard that is gone is an error, not damage.
        first_byte = tf.data.FixedLengthRecordDataset(path, record_bytes=1).take(1)
        bad = first_byte.map(plain(lambda _: self._zeros() | identity))
        return good.ignore_errors(log_warning=True).concatenate(bad).take(1)

    def _content(self, record, seed):
        jpegs, label, fps = self._parse(record)
        indices = self._sample(tf.size(jpegs), fps, seed)
        frames, size_px = decode.decode_frames(tf.gather(jpegs, indices), tuple(self._dataset.canvas_px))
        return {
            "frames": tf.ensure_shape(frames, self._frames_shape),
            "size_px": size_px,
            "label": tf.cast(label, tf.int32),
            "weight": tf.constant(1.0),
        }

    def _parse(self, record):
        feature = self._dataset.frames_feature
        parsed = tf.io.parse_single_example(
            record,
            {
                feature: tf.io.FixedLenSequenceFeature((), tf.string, allow_missing=True),  # a single image: of one
                "label": tf.io.FixedLenFeature((), tf.int64),
                "fps": tf.io.FixedLenFeature((), tf.float32, default_value=0.0),
            },
        )
        return parsed[feature], parsed["label"], parsed["fps"]

    def _zeros(self):
        return {
            "frames": tf.zeros(self._frames_shape, tf.uint8),
            "size_px": tf.zeros((2,), tf.int32),
            "label": tf.constant(0),
            "weight": tf.constant(0.0),
        }


def _check_features(split: records.Split, dataset) -> None:
    needed = {dataset.frames_feature: "frames_feature", "label": "the class"}
    if dataset.sample_fps:
        needed["fps"] = f"sample_fps is {dataset.sample_fps}; 0 works without"
    for feature, why in needed.items():
        if feature not in split.features:
            raise ValueError(
                f"dataset {split.builder!r} has no feature {feature!r} ({why}); it has {', '.join(split.features)}"
            )
