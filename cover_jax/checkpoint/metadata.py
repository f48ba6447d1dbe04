"""Metadata of a checkpoint: heads with their class names, data, config, versions; as JSON and as text."""

import base64
import dataclasses
import json
import types
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from ml_collections import ConfigDict

from cover_jax.checkpoint.layout import Meta
from cover_jax.config import checks, schema
from cover_jax.models.heads import HeadSpec
from cover_jax.tasks import registry
from cover_jax.versions import versions
from data_pipelines.doctor import manifest
from data_pipelines.leaks import search
from data_pipelines.prepare import base


@dataclasses.dataclass(frozen=True)
class KeptHead:
    """A head that a run took over from another and does not train.

    Attributes:
        class_names: in order.
        dataset: the dataset that it was trained on, as `dataset()` in configs/common.py, in JSON types.
        storage: how its frames were stored: options of their preparation (`prepare.base.STORAGE`).
    """

    class_names: tuple[str, ...]
    dataset: dict[str, Any]
    storage: dict[str, Any] = dataclasses.field(default_factory=dict)


NO_HEADS: Mapping[str, KeptHead] = types.MappingProxyType({})


class TrainSplit(Protocol):
    """Metadata of a training split, see `data_pipelines.stream.records.Split`."""

    builder: str
    class_names: Sequence[str]
    num_examples: int
    excluded: np.ndarray
    fingerprint: str
    origin: Mapping[str, Any]


def make_meta(
    config: ConfigDict,
    splits: Mapping[str, TrainSplit],
    manifests: Mapping[str, dict[str, Any]],
    leaks: list[dict[str, Any]],
    contents: Mapping[str, dict[str, Any]] = types.MappingProxyType({}),
    kept: Mapping[str, KeptHead] = NO_HEADS,
) -> Meta:
    """Metadata of a checkpoint, as JSON: class names per head in order, data, config, versions.

    Args:
        config: the whole config.
        splits: dataset name -> its opened training split.
        manifests: dataset name -> which listed examples of its source exist (`data_pipelines.doctor.manifest.summary`).
        contents: dataset -> purpose, such as "train" -> the content of its split (`contents.Content.to_json`).
        leaks: examples that validation and training sets share (`data_pipelines.leaks.Leaks.summary`).
        kept: the kept heads, beside those of the datasets.
    """
    return {
        "heads": {name: list(split.class_names) for name, split in splits.items()}
        | {name: list(head.class_names) for name, head in kept.items()},
        "kept": {name: head.dataset for name, head in kept.items()},
        "storage": {name: _storage(split.origin) for name, split in splits.items()}
        | {name: head.storage for name, head in kept.items()},
        "data": {
            name: {
                "builder": split.builder,
                "examples": split.num_examples,
                "excluded": len(split.excluded),
                "excluded_records": _packed(split.excluded),
                "fingerprint": split.fingerprint,
                "manifest": manifests[name],
            }
            for name, split in splits.items()
        },
        "leaks": leaks,
        "contents": dict(contents),
        "config": json.loads(config.to_json()),
        "versions": versions(),
    }


def _packed(indices: np.ndarray) -> str:
    """Ascending indices as text: their differences, compressed; about two bytes per index."""
    return base64.b64encode(zlib.compress(np.diff(indices, prepend=0).astype("<u4").tobytes())).decode()


def excluded_records(data: Mapping[str, Any]) -> np.ndarray | None:
    """Which records of a dataset a run leaves out, int64 [n], by the "data" of its metadata; None if it is not there.

    Checkpoints of 0.2.0 and before do not have it.
    """
    if "excluded_records" not in data:
        return None
    differences = np.frombuffer(zlib.decompress(base64.b64decode(data["excluded_records"])), "<u4")
    return np.cumsum(differences, dtype=np.int64)


def _storage(origin: Mapping[str, Any]) -> dict[str, Any]:
    return {option: origin[option] for option in base.STORAGE if option in origin}


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained model, without its run.

    Attributes:
        config: the whole config that it was trained with.
        class_names: head -> its classes, in order.
        params: of the whole model, on the host; the moving average if the run kept one.
        step: number of training steps.
        meta: all metadata of its checkpoint (see `make_meta`).
        accuracies: of its evaluation, with DATASET/examples; {} if the step was not evaluated.
        notes: of a published model: what its files say and what is assumed, as lines for people; of a run, none.
        part_of: a head that was one of several of a dataset -> that dataset; such a head has one class per clip.
    """

    config: ConfigDict
    class_names: dict[str, list[str]]
    params: dict[str, Any]
    step: int
    meta: Meta = dataclasses.field(default_factory=dict)
    accuracies: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    part_of: dict[str, str] = dataclasses.field(default_factory=dict)

    def dataset_name(self, head: str) -> str:
        """The name of the dataset that a head was trained on: its own, but for one of several heads."""
        return self.part_of.get(head, head)

    def dataset(self, head: str) -> ConfigDict:
        """The dataset that a head was trained on, as `dataset()` in configs/common.py."""
        if head in self.part_of:
            one: ConfigDict = self.dataset(self.part_of[head]).copy_and_resolve_references()
            one.task, one.heads = registry.DEFAULT, ""
            return one
        if head not in self.meta.get("kept", {}):
            return self.config.datasets[head]
        dataset = schema.dataset()  # keys newer than the checkpoint have their defaults
        with dataset.ignore_type(), dataset.unlocked():
            dataset.update(self.meta["kept"][head])
        return dataset

    def head_spec(self, head: str) -> HeadSpec:
        """What a head is."""
        return HeadSpec.of(self.config.model, self.dataset(head).head)

    def storage(self, head: str) -> dict[str, Any]:
        """How the frames of its dataset were stored (`prepare.base.STORAGE`); {} if the checkpoint does not say so."""
        found: dict[str, Any] = self.meta.get("storage", {}).get(self.dataset_name(head), {})
        return found


def task_of(meta: Meta, head: str) -> str:
    """The task of a head, as in its dataset's config (`tasks.registry`)."""
    dataset = (meta["config"]["datasets"] | meta.get("kept", {}))[head]
    task: str = dataset.get("task", registry.DEFAULT)  # checkpoints up to 0.2.0 do not say it
    return task


def config_of(meta: Meta) -> ConfigDict:
    """The config of a checkpoint. Keys newer than the checkpoint have their defaults."""
    config = schema.get_config()
    with config.ignore_type(), config.unlocked():
        config.datasets = {name: schema.dataset() for name in meta["config"]["datasets"]}
        config.update(meta["config"])
    return config


DATA_COLUMNS = ("dataset", "prepared as", "trained on", "left out", "of what its source lists")
CONFIG_COLUMNS = ("key", "value", "default")


def data_rows(meta: Meta) -> list[tuple[str, str, int, int, str]]:
    """One row of DATA_COLUMNS per dataset of `make_meta`'s metadata."""
    return [
        (name, about["builder"], about["examples"], about["excluded"], manifest.summary_line(about["manifest"]))
        for name, about in meta["data"].items()
    ]


def leak_lines(meta: Meta, config: ConfigDict) -> list[str]:
    """What is known about leaks in the mix, as lines of text."""
    if config.input.leaks == "ignore":
        return ["leaks: not searched for (config.input.leaks='ignore')"]
    lines = search.report_lines(meta["leaks"]) or ["leaks: no two datasets of one kind, so nothing to compare"]
    left_out = sum(about["excluded"] for about in meta["data"].values())
    return [*lines, f"leaks: {left_out} examples left out of training"] if left_out else lines


def config_rows(config: ConfigDict) -> list[tuple[str, str, str]]:
    """One row of CONFIG_COLUMNS per key that is not at its default."""
    return [
        (key, in_words(value), "" if default is None else in_words(default))
        for key, value, default in checks.differences(config)
    ]


def in_words(value: object) -> str:
    """A config's value as JSON."""
    return json.dumps(value.to_dict() if isinstance(value, ConfigDict) else value)
