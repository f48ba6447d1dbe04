"""Stored records -> examples of a batch; a damaged record becomes zeros of weight 0, in its place.

# C examples of a chunk, T frames, H, W canvas; h, w a picture's own size.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data_pipelines import escaping
from data_pipelines.media import frames_of_video
from data_pipelines.sources import label_features
from data_pipelines.stream import decode, records
from data_pipelines.stream.batch import DatasetConfig
from data_pipelines.stream.host_tf import plain, tf

PADDING_INDEX = -1  # stands for no record: zeros of weight 0

Features = dict[str, tf.Tensor]


class ExampleReader:
    """Reads, parses, samples and decodes, in TensorFlow ops."""

    def __init__(
        self,
        split: records.Split,
        dataset: DatasetConfig,
        num_frames: int,
        sample: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor],
        repeats: int = 1,
    ):
        """Checks that the records have what is needed.

        Args:
            split: what to read.
            dataset: its entry in the config.
            num_frames: T.
            sample: (frames stored, their rate, seed) -> indices of the T sampled ones.
            repeats: rows that each example gives, equal but for their seeds.

        Raises:
            ValueError: a feature is missing.
        """
        self._media_feature = records.media_feature(split, dataset.frames_feature)
        self.described = f"{split.builder} {split.split}"
        self._is_file = self._media_feature == records.VIDEO_FEATURE
        _check_features(split, dataset, self._is_file)
        if min(dataset.canvas_px) <= 0:
            raise ValueError(f"canvas_px {tuple(dataset.canvas_px)}: must be greater than 0, or be chosen by the run")
        self._locate = records.locator(split)
        self._several_labels, self._num_classes = split.several_labels, len(split.class_names)
        self._dataset = dataset
        self._sample = sample
        self.repeats = repeats
        self.frames_shape = (num_frames, *dataset.canvas_px, 3)
        # Traced once, though it stands at several places of a stream's graph.
        places = [tf.TensorSpec((), tf.string), tf.TensorSpec((), tf.int64), tf.TensorSpec((repeats,), tf.uint32)]
        self._decode_in_graph = tf.function(self._decode, input_signature=places, autograph=False)

    def read_one(self, index: tf.Tensor, seeds: tf.Tensor) -> Features:
        """Reads an example, not padded yet.

        Args:
            index: int64 scalar.
            seeds: uint32 [repeats].

        Returns:
            `frames` uint8 [T, h, w, 3], `size_px` int32 [2], `label` int32, `weight` float32, `index` int64 and `seed`
            uint32 [repeats]; of a dataset with several labels also `targets` float32 [classes].
        """
        example: Features = self._guarded(index, seeds).get_single_element()
        return example

    def read_chunk(self, places: tf.data.Dataset, size: int) -> Features:
        """Reads several small examples in one thread; several chunks may be read at once.

        Args:
            places: a dataset of `size` pairs (index, seeds), as `read_one` takes them.
            size: C.

        Returns:
            As `read_one`, with a leading C, and frames padded to uint8 [C, T, H, W, 3].
        """
        # A guard costs as much as a small image. One around all of a chunk is enough, until something is damaged.
        together = self.pad(places.flat_map(plain(self._record)).map(plain(self._decode_in_graph)), size)
        one_by_one = self.pad(places.flat_map(plain(self._guarded)), size)
        chunk: Features = _first_of(together, one_by_one).get_single_element()
        return chunk

    def why_undecodable(self, index: int, seed: int) -> str:
        """Reads an example again and says where it stands and what is wrong with it."""
        path, offset = self._locate(tf.constant(index, tf.int64))
        where, source = f"{path.numpy().decode()} at byte {int(offset)}", ""
        places = (tf.constant(index, tf.int64), tf.constant([seed] * self.repeats, tf.uint32))
        try:
            for record, *_ in tf.data.Dataset.from_tensors(places).flat_map(plain(self._record)):
                source = self._source(record)
                self._decode(record, *places)
        except tf.errors.OpError as error:
            return f"{where}{source}: {describe_tf_error(error.message)}"
        return f"{where}{source}: nothing is wrong with it now"

    def _source(self, record: tf.Tensor) -> str:
        features = {"source": tf.io.FixedLenFeature((), tf.string, default_value="")}
        source = tf.io.parse_single_example(record, features)["source"].numpy().decode(errors="replace")
        return f" ({source})" if source else ""

    def pad(self, examples: tf.data.Dataset, size: int) -> tf.data.Dataset:
        """Batches a dataset of examples: pictures in the top left corner of the canvas, zeros around them."""
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(examples.element_spec, ())
        shapes |= {"frames": self.frames_shape, "size_px": (2,), "seed": (self.repeats,)}
        shapes |= {"targets": (self._num_classes,)} if self._several_labels else {}
        return examples.padded_batch(size, shapes, drop_remainder=True)

    def repeat(self, batch: Features) -> Features:
        """Each example of a batch as `repeats` neighbouring rows, with a seed each and the same frames."""
        seeds = tf.reshape(batch["seed"], [-1])
        if self.repeats > 1:
            batch = {key: tf.repeat(value, self.repeats, axis=0) for key, value in batch.items()}
        return batch | {"seed": seeds}

    def _record(self, index: tf.Tensor, seeds: tf.Tensor) -> tf.data.Dataset:
        """A dataset of (record, index, seed); empty for the padding index."""
        path, offset = self._locate(tf.maximum(index, 0))
        count = tf.where(index == PADDING_INDEX, tf.constant(0, tf.int64), tf.constant(1, tf.int64))
        return tf.data.Dataset.zip(
            (records.read_from(path, offset).take(count), *map(tf.data.Dataset.from_tensors, (index, seeds)))
        )

    def _guarded(self, index: tf.Tensor, seeds: tf.Tensor) -> tf.data.Dataset:
        """A dataset of the one example: zeros if there is no record, or a damaged one."""
        path, _ = self._locate(tf.maximum(index, 0))
        good = self._record(index, seeds).map(plain(self._decode_in_graph))
        # A shard that is gone is an error, not damage: then its first byte cannot be read either.
        first_byte = tf.data.FixedLengthRecordDataset(path, record_bytes=1).take(1)
        return _first_of(good, first_byte.map(plain(lambda _: self._zeros(index, seeds))), log_warning=True)

    def _decode(self, record: tf.Tensor, index: tf.Tensor, seeds: tf.Tensor) -> Features:
        clip = self._parse(record)
        frames_Thw3 = self._sampled_frames(clip, seeds[0])
        return {
            "frames": frames_Thw3,
            "size_px": tf.shape(frames_Thw3)[1:3],
            **self._labels(clip),
            "weight": tf.constant(1.0),
            "index": index,
            "seed": seeds,
        }

    def _sampled_frames(self, clip: Features, seed: tf.Tensor) -> tf.Tensor:
        height_px, width_px = self._dataset.canvas_px
        canvas_px = (height_px, width_px)
        if self._is_file:
            indices = self._sample(clip["num_source_frames"], clip["fps"], seed)
            return decode.decode_video(clip[self._media_feature], indices, canvas_px)
        jpegs = clip[self._media_feature]
        indices = self._sample(tf.size(jpegs), clip["fps"], seed)
        return decode.decode_frames(tf.gather(jpegs, indices), canvas_px)

    def _zeros(self, index: tf.Tensor, seeds: tf.Tensor) -> Features:
        return {
            "frames": tf.zeros((self.frames_shape[0], 0, 0, 3), tf.uint8),
            "size_px": tf.zeros((2,), tf.int32),
            "label": tf.constant(0),
            **({"targets": tf.zeros((self._num_classes,))} if self._several_labels else {}),
            "weight": tf.constant(0.0),
            "index": index,
            "seed": seeds,
        }

    def _labels(self, clip: Features) -> Features:
        """`label` int32, the first one or -1; of several labels also `targets`: float32 [classes] of 0 and 1."""
        if not self._several_labels:
            return {"label": tf.cast(clip[label_features.ONE], tf.int32)}
        labels = clip[label_features.SEVERAL]
        counts = tf.reduce_sum(tf.one_hot(labels, self._num_classes), axis=0)
        first = tf.concat([tf.cast(labels, tf.int32), [-1]], axis=0)[0]
        return {"label": first, "targets": tf.minimum(counts, 1.0)}

    def _parse(self, record: tf.Tensor) -> Features:
        if self._is_file:
            media = {
                self._media_feature: tf.io.FixedLenFeature((), tf.string),
                "num_source_frames": tf.io.FixedLenFeature((), tf.int64),
            }
        else:  # a single image is a sequence of one
            jpegs = tf.io.FixedLenSequenceFeature((), tf.string, allow_missing=True)
            media = {self._media_feature: jpegs}
        if self._several_labels:
            labels = {label_features.SEVERAL: tf.io.FixedLenSequenceFeature((), tf.int64, allow_missing=True)}
        else:
            labels = {label_features.ONE: tf.io.FixedLenFeature((), tf.int64)}
        features = labels | {
            "fps": tf.io.FixedLenFeature((), tf.float32, default_value=0.0),
        }
        clip: Features = tf.io.parse_single_example(record, media | features)
        return clip


class Stored(NamedTuple):
    """One record as it is stored.

    Attributes:
        frames: its JPEGs; of a video file, all its frames, uint8 [N, h, w, 3].
        fps: their rate; 0 of an image.
        label: index of its class; -1 if the record has none.
        source: path of what it was prepared from; "" if the record has none.
    """

    frames: list[bytes] | np.ndarray
    fps: float
    label: int
    source: str


def read_stored(split: records.Split, index: int, frames_feature: str) -> Stored:
    """Reads one record, without decoding its JPEGs.

    Raises:
        tf.errors.OpError: it is damaged, or its shard is gone.
    """
    media = records.media_feature(split, frames_feature)
    features = {
        media: tf.io.FixedLenSequenceFeature((), tf.string, allow_missing=True),
        "label": tf.io.FixedLenFeature((), tf.int64, default_value=-1),
        "fps": tf.io.FixedLenFeature((), tf.float32, default_value=0.0),
        "source": tf.io.FixedLenFeature((), tf.string, default_value=""),
    }
    path, offset = tf.constant(split.paths[split.shards[index]]), tf.constant(split.offsets[index])
    record = records.read_from(path, offset).take(1).get_single_element()
    found = tf.io.parse_single_example(record, features)
    frames = list(found[media].numpy())
    is_file = media == records.VIDEO_FEATURE
    decoded = np.stack(list(frames_of_video.all_frames(frames[0]))) if is_file else frames
    return Stored(decoded, float(found["fps"]), int(found["label"]), found["source"].numpy().decode(errors="replace"))


def _first_of(attempt: tf.data.Dataset, fallback: tf.data.Dataset, log_warning: bool = False) -> tf.data.Dataset:
    """A dataset of the one element of `attempt`, or, if that is empty or raises, of `fallback`."""
    # Zipped with a range that comes first, `attempt` is asked once whatever happens. Asked again after an error, as
    # ignore_errors does, a reader goes on for ever on a lost shard, and to the next record after a damaged one.
    once = tf.data.Dataset.zip((tf.data.Dataset.range(1), attempt)).ignore_errors(log_warning)
    return once.map(plain(lambda _, element: element)).concatenate(fallback).take(1)


def describe_tf_error(message: str) -> str:
    """A TensorFlow error without the names of its ops; of one that Python raised inside, what it said."""
    message = re.sub(r"\{\{.*?\}\}|\[Op:.*|\[\[.*", "", message.partition("Traceback")[0])
    return escaping.one_line(message, 300)


def _check_features(split: records.Split, dataset: DatasetConfig, is_file: bool) -> None:
    needed = {"num_source_frames": "frames of a file"} if is_file else {dataset.frames_feature: "frames_feature"}
    if not split.several_labels:
        needed[label_features.ONE] = "the class"
    if dataset.sample_fps:
        needed["fps"] = f"sample_fps is {dataset.sample_fps}; 0 works without"
    for feature, why in needed.items():
        if feature not in split.features:
            raise ValueError(
                f"dataset {split.builder!r} has no feature {feature!r} ({why}); it has {', '.join(split.features)}"
            )
