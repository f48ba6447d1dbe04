"""The record format in which all videos and images are stored, generated and real ones."""

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.sources import label_features


def info(
    builder,
    class_names,
    modality: str,
    description: str,
    media: str = "frames",
    has_placeholders: bool = False,
    several_labels: bool = False,
    in_order: bool = False,
    **metadata,
) -> tfds.core.DatasetInfo:
    """The `DatasetInfo` that a builder's `_info` returns.

    Args:
        builder: the builder.
        class_names: in the order of the labels; None if they are set later, when the source is listed.
        modality: "video" or "image".
        description: one sentence for `dataset_info.json`.
        media, has_placeholders, several_labels: as in `features`.
        in_order: the records stay in the order in which they are made, with their numbers as keys; else shuffled.
        **metadata: JSON values about the data's origin, stored beside the data.
    """
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=features(class_names, media, has_placeholders, several_labels),
        disable_shuffling=in_order,
        metadata=tfds.core.MetadataDict(modality=modality, **metadata),
    )


def features(
    class_names, media: str = "frames", has_placeholders: bool = False, several_labels: bool = False
) -> tfds.features.FeaturesDict:
    """The TFDS features of a record, in one of two forms.

    With "frames" a record has JPEG frames, which are fast to read. With "video" it has the bytes of a video file, which
    is a few times smaller and several times slower to read; all of its frames, at its own rate, are the stored frames.

    If classes are templates, `placeholders` are a clip's texts for the brackets of its template. With several labels,
    the feature is `labels`, any number of classes, in place of `label`.
    """
    jpeg = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
    forms = {
        "frames": tfds.features.Sequence(jpeg),  # in order of time; one for an image
        "video": tfds.features.Text(),  # mp4, or another format that FFmpeg can read
    }
    placeholders = {"placeholders": tfds.features.Sequence(tfds.features.Text())} if has_placeholders else {}
    return tfds.features.FeaturesDict(
        {
            media: forms[media],
            **placeholders,
            **label_features.make(class_names, several_labels),
            "source": tfds.features.Text(),  # its origin: a path inside the source folder, or a description
            "source_sha256": tfds.features.Text(),  # hash of the source's bytes, to find equal media in two datasets
            # The original that the source was cut from, if the publisher names it: a YouTube id, or "". It is used to
            # find clips of one original in two datasets. Datasets prepared by earlier versions do not have it.
            "source_id": tfds.features.Text(),
            "source_start_s": tfds.features.Scalar(np.float32),  # start of the clip in the original
            "source_end_s": tfds.features.Scalar(np.float32),  # end of the clip; both are 0 without source_id
            "fps": tfds.features.Scalar(np.float32),  # rate of the stored frames; 0 for an image
            "num_source_frames": tfds.features.Scalar(np.int64),  # before frames were dropped; in a file: all
        }
    )


def example(
    frames,
    label,
    source: str,
    source_sha256: str,
    fps: float,
    num_source_frames: int,
    source_id: str = "",
    source_start_s: float = 0.0,
    source_end_s: float = 0.0,
    placeholders=None,
) -> dict:
    """One record. `label` is a class name or its index, -1 if it is not published; or a tuple of any number of names.

    `frames` are a sequence of JPEGs, or the bytes of a video file. `placeholders` are None if the dataset has none.
    """
    return {
        **({"video": frames} if isinstance(frames, bytes) else {"frames": list(frames)}),
        **({} if placeholders is None else {"placeholders": list(placeholders)}),
        **({label_features.SEVERAL: list(label)} if isinstance(label, tuple) else {label_features.ONE: label}),
        "source": source,
        "source_sha256": source_sha256,
        "source_id": source_id,
        "source_start_s": source_start_s,
        "source_end_s": source_end_s,
        "fps": fps,
        "num_source_frames": num_source_frames,
    }
