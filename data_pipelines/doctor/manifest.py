"""What a dataset has, compared with its source's list: counts per split and class, faults with reasons, statistics.

The format is the same for a prepared dataset and for the files before they are prepared. The doctor writes it as JSON:

    dataset, where, modality, origin
    splits: split -> listed, found, missing, refused, damaged, bytes, classes {class: [listed, found]},
            seconds, fps, frames, height_px, width_px {min, median, max, mean}, the same with _histogram
            [[from, to, count]], unusable [{path, label, reason}]; with several labels per clip also labels_per_clip
            {min, median, max, mean}
"""

import collections
import sys

import numpy as np

from data_pipelines import catalog, files
from data_pipelines.prepare import base
from data_pipelines.sources import label_features

FILE = "manifest.json"
BARS = 16  # bars per histogram
COUNTS = ("listed", "found", "missing", "refused", "damaged")


def summary(builder: str, data_dir: str) -> dict[str, dict[str, int]]:
    """Counts of each split of a prepared dataset, by COUNTS. Fast: reads no records.

    `damaged` is the number that the doctor found, if the doctor was run.
    """
    where = catalog.dataset_dir(builder, data_dir)
    written = where / FILE
    try:
        splits = files.read_json(written, {"splits": {str: dict.fromkeys(COUNTS, int)}})["splits"]
        return {split: {count: of_split[count] for count in COUNTS} for split, of_split in splits.items()}
    except FileNotFoundError:
        pass  # the doctor was not run
    except files.DamagedFileError as error:
        print(
            f"WARNING: {error}; not used; python -m data_pipelines.doctor writes it again", file=sys.stderr, flush=True
        )
    refused = base.read_refused(where)
    info = catalog.read_info(where)
    return {split: _counts(found.num_examples, refused[split], 0) for split, found in info.splits.items()}


def summary_line(of_splits: dict[str, dict[str, int]]) -> str:
    """A summary as text: "train 180 of 182 listed (1 missing, 1 refused), validation 70 of 70"."""
    return ", ".join(_in_words(split, counts) for split, counts in of_splits.items())


def describe_split(
    class_names,
    columns: dict[str, np.ndarray],
    paths: list[str],
    refused: list[dict[str, str]],
    several: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict:
    """The manifest of one split.

    Args:
        class_names: in the order of the labels.
        columns: `label`, `num_frames`, `fps`, `height_px`, `width_px`, `bytes` and `reason` of each record or file that
            was found; a reason other than b"" states why it cannot be read.
        paths: the source of each record or file.
        refused: files that are listed but were not found or could not be used.
        several: if a record may have several labels: all labels, and the index of the record of each.
    """
    good = columns["reason"] == b""
    damaged = [{"path": paths[i], "label": "", "reason": columns["reason"][i].decode()} for i in np.flatnonzero(~good)]
    labels, labelled = (columns["label"], np.arange(len(good))) if several is None else several
    found = collections.Counter(labels[good[labelled]].tolist())
    lost = [row["label"] for row in refused]
    if several is not None:
        lost = [label for labels in lost for label in labels.split(label_features.SEPARATOR)]
    lacking = collections.Counter(lost)
    classes = {name: [found[i] + lacking[name], found[i]] for i, name in enumerate(class_names)}
    seconds = columns["num_frames"] / np.where(columns["fps"] > 0, columns["fps"], np.inf)
    figures = {"seconds": seconds, "frames": columns["num_frames"]} | {
        name: columns[name] for name in ("fps", "height_px", "width_px")
    }
    return {
        **_counts(len(good), refused, len(damaged)),
        "bytes": int(columns["bytes"].sum()),
        "classes": classes,
        **{name: _figures(values[good]) for name, values in figures.items()},
        **{f"{name}_histogram": _histogram(values[good]) for name, values in figures.items()},
        **({} if several is None else {"labels_per_clip": _figures(np.bincount(labelled, minlength=len(good))[good])}),
        "unusable": [*refused, *damaged],
    }


def _counts(found: int, refused: list[dict[str, str]], damaged: int) -> dict[str, int]:
    missing = sum(row["reason"] == base.MISSING for row in refused)
    counts = (found + len(refused), found, missing, len(refused) - missing, damaged)
    return dict(zip(COUNTS, counts, strict=True))


def _in_words(split: str, counts: dict[str, int]) -> str:
    faults = [f"{counts[kind]} {kind}" for kind in COUNTS[2:] if counts[kind]]
    return f"{split} {counts['found']} of {counts['listed']} listed" + (f" ({', '.join(faults)})" if faults else "")


def _histogram(values: np.ndarray) -> list[list[float]]:
    """[from, to, count] of each bar: one bar per value if there are few values, else equal steps."""
    unique, counts = np.unique(values, return_counts=True)
    if len(unique) <= BARS:
        return [[round(float(value), 3)] * 2 + [int(count)] for value, count in zip(unique, counts, strict=True)]
    counts, edges = np.histogram(values, BARS)
    return [[float(f"{a:.4g}"), float(f"{b:.4g}"), int(n)] for a, b, n in zip(edges, edges[1:], counts, strict=False)]


def _figures(values: np.ndarray) -> dict[str, float]:
    """Smallest, median, largest and mean value; {} for an empty array."""
    if not len(values):
        return {}
    found = {"min": values.min(), "median": np.median(values), "max": values.max(), "mean": values.mean()}
    return {name: round(float(value), 3) for name, value in found.items()}
