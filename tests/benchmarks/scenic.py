"""What the project is compared with: an input pipeline as Scenic and DMVR build theirs, written for the comparison.

After google-research/scenic (projects/vivit/data/video_tfrecord_dataset.py) and google-deepmind/dmvr (processors.py):
all frames of a clip at 25 fps as JPEGs in a SequenceExample; sampled, decoded, resized, scaled at random, cropped,
flipped and normalised on the host, to float32. The range of the factor is that of their ViViT for Kinetics-400
(projects/vivit/configs/kinetics400/vivit_base_factorised_encoder.py); their colour augmentation is left out.

# T frames, H, W the stored size, S side of the square.
"""

import os

import tensorflow as tf

from tests.benchmarks import clips

SCALES = (0.9, 1.33)


def write(path: str, examples: list[tuple[bytes, ...]]) -> None:
    """A TFRecord of SequenceExamples, one for each tuple of JPEG frames."""
    with tf.io.TFRecordWriter(path) as writer:
        for label, jpegs in enumerate(examples):
            example = tf.train.SequenceExample()
            example.context.feature["clip/label/index"].int64_list.value.append(label)
            frames = example.feature_lists.feature_list["image/encoded"]
            for jpeg in jpegs:
                frames.feature.add().bytes_list.value.append(jpeg)
            writer.write(example.SerializeToString())


def batches(path: str, *, num_frames: int, stride: int, size_px: int, batch_size: int, threads: int, scales=SCALES):
    """Endless batches of float32 [B, T, S, S, 3] and labels, as a NumPy iterator; `scales` of (1, 1): no scaling."""

    def example(record):
        context, sequence = tf.io.parse_single_sequence_example(
            record,
            context_features={"clip/label/index": tf.io.FixedLenFeature((), tf.int64)},
            sequence_features={"image/encoded": tf.io.FixedLenSequenceFeature((), tf.string)},
        )
        jpegs = _sample(sequence["image/encoded"], num_frames, stride)
        return {"inputs": _augment(_decode(jpegs), size_px, scales), "label": context["clip/label/index"]}

    dataset = tf.data.TFRecordDataset(path).repeat().shuffle(8)
    dataset = dataset.map(example, num_parallel_calls=threads).batch(batch_size, drop_remainder=True)
    return _with_threads(dataset.prefetch(2), threads).as_numpy_iterator()


def image_batches(path: str, *, size_px: int, batch_size: int, threads: int):
    """The same for one JPEG an example, as Scenic feeds ImageNet: float32 [B, S, S, 3]."""

    def example(record):
        parsed = tf.io.parse_single_sequence_example(
            record, sequence_features={"image/encoded": tf.io.FixedLenSequenceFeature((), tf.string)}
        )[1]
        return {"inputs": _augment(_decode(parsed["image/encoded"]), size_px, (1.0, 1.0))[0]}

    dataset = tf.data.TFRecordDataset(path).repeat().shuffle(8)
    dataset = dataset.map(example, num_parallel_calls=threads).batch(batch_size, drop_remainder=True)
    return _with_threads(dataset.prefetch(2), threads).as_numpy_iterator()


def _with_threads(dataset, threads: int):
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads or os.cpu_count()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _sample(jpegs, num_frames: int, stride: int):
    """`num_frames` frames `stride` apart, from a random start."""
    last_start = tf.maximum(tf.size(jpegs) - (num_frames - 1) * stride - 1, 0)
    start = tf.random.uniform((), 0, last_start + 1, tf.int32)
    return tf.gather(jpegs, tf.minimum(start + tf.range(num_frames) * stride, tf.size(jpegs) - 1))


def _decode(jpegs):
    decode = lambda jpeg: tf.io.decode_jpeg(jpeg, channels=3)  # noqa: E731
    return tf.map_fn(decode, jpegs, fn_output_signature=tf.TensorSpec((clips.HEIGHT, clips.WIDTH, 3), tf.uint8))


def _augment(frames_THW3, size_px: int, scales: tuple[float, float]):
    """Shorter side to 256 for 224 px (512 for 448), scaled, a random square, a flip, -1..1."""
    short = round(size_px * 256 / 224)
    if short != clips.HEIGHT:
        frames_THW3 = _resize(frames_THW3, (short, short * clips.WIDTH // clips.HEIGHT))
    if scales != (1.0, 1.0):
        factor = tf.random.uniform((), *scales)
        sides = tf.cast(tf.shape(frames_THW3)[1:3], tf.float32)
        frames_THW3 = _resize(frames_THW3, tf.maximum(tf.cast(sides * factor, tf.int32), size_px))
    frames = tf.image.random_crop(frames_THW3, (tf.shape(frames_THW3)[0], size_px, size_px, 3))
    frames = tf.cond(tf.random.uniform(()) < 0.5, lambda: tf.image.flip_left_right(frames), lambda: frames)
    return tf.cast(frames, tf.float32) * (2 / 255) - 1


def _resize(frames_THW3, size):
    return tf.cast(tf.image.resize(frames_THW3, size), tf.uint8)
