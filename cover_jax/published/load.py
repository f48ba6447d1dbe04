"""Loads a trained model: a checkpoint of a run, or a published model (a folder, a file, or hf://ORG/REPO)."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import traverse_util
from ml_collections import ConfigDict

from cover_jax.checkpoint import init_from, metadata, restore
from cover_jax.config import keys, schema
from cover_jax.errors import ConfigError
from cover_jax.models import cover
from cover_jax.models.pretrained import loader, sources
from cover_jax.models.pretrained.errors import PretrainedError
from cover_jax.published import describe, flags
from cover_jax.versions import versions

WEIGHTS = (".safetensors", ".bin", ".npz", ".pyth", ".pth", ".pt")  # suffixes of files with weights
# What an image model lacks: zeros there leave each frame what the image model makes of it.
_ZEROS = ("backbone/time_embed", "backbone/blocks/temporal_fc/kernel", "backbone/blocks/temporal_fc/bias")


def load(
    source: str, step: str = "newest", *, class_names: str = "", backbone_only: bool = False, **views: float
) -> metadata.TrainedModel:
    """The model of a run or of published weights. Its `notes` say what a published model's files say.

    Args:
        source: WORKDIR[@best|@STEP] of a run; or a folder or file with published weights; local, gs:// or
            hf://ORG/REPO[@REVISION][/FILE].
        step: checkpoint of a run: "newest", "best" or its step.
        class_names: file with the names of a published model's classes, one per line; "": as its files name them.
        backbone_only: a published model needs no classifier; then it may have no head.
        **views: `sample_fps`, `eval_clips` or `eval_crops` of all heads, in place of the model's own.

    Raises:
        FileNotFoundError: there is no such checkpoint or file.
        PretrainedError: the published model cannot be read, or is not complete.
        ConfigError: a step of a published model, two steps of a run, class names for a run, or impossible views.
        CheckpointDamagedError: there are checkpoints, but none is sound.
    """
    _check_views(views)
    if not is_published(source):
        if class_names:
            raise ConfigError(f"--class_names={class_names}: {source} is a run, which knows the names of its classes")
        workdir, which = init_from.find_run(source) or (source, "newest")
        if "newest" not in (which, step):
            raise ConfigError(f"--step={step}: {source} names a checkpoint already")
        trained = restore.load_trained(workdir, step if which == "newest" else which)
    elif step != "newest":
        raise ConfigError(f"--step={step}: {source} is a published model, which has no steps")
    else:
        trained = _load_published(source, class_names, backbone_only)
    return with_views(trained, views)


def _check_views(views: Mapping[str, Any]) -> None:
    for name, value in views.items():
        if name not in flags.VIEWS:
            raise ConfigError(
                f"{name}={value!r}: unknown; known are class_names, backbone_only, {', '.join(flags.VIEWS)}"
            )
        declared = keys.find(schema.Run, f"datasets.{describe.HEAD}.{name}")
        assert declared is not None
        if not isinstance(value, int | float) or not declared.rule.holds(value):
            raise ConfigError(f"{name}={value!r}: must be {declared.rule.text}")


def is_published(source: str) -> bool:
    """Whether a source is a published model, not the workdir of a run."""
    if source.startswith("hf://"):
        return True
    path = epath.Path(source).expanduser()
    if init_from.find_run(source):
        return False
    if path.is_dir():
        return any(child.suffix in WEIGHTS or child.name.endswith(".index.json") for child in path.iterdir())
    return path.suffix in WEIGHTS


def with_views(trained: metadata.TrainedModel, views: dict[str, Any]) -> metadata.TrainedModel:
    """The model with other `sample_fps`, `eval_clips` or `eval_crops` for all heads."""
    if not views:
        return trained
    config, meta = copy.deepcopy(trained.config), copy.deepcopy(trained.meta)
    for dataset in config.datasets.values():
        dataset.update(views)
    for kept in meta.get("kept", {}).values():
        kept.update(views)
    given = ", ".join(f"{key}={value:g}" for key, value in views.items())
    notes = (*trained.notes, f"as the command asks: {given}") if trained.notes else ()
    return dataclasses.replace(trained, config=config, meta=meta, notes=notes)


def _load_published(source: str, class_names: str, backbone_only: bool) -> metadata.TrainedModel:
    opened = sources.open_source(source)
    described = describe.describe(source, opened, _read_names(class_names))
    if not described.class_names and not backbone_only:
        raise PretrainedError(
            f"{source}: has no classifier, so it cannot label clips; config.model.init_from={source} starts from it"
        )
    names = {describe.HEAD: list(described.class_names)} if described.class_names else {}
    params, unused = _params(source, opened, described, names)
    meta = {
        "published": source,
        "heads": names,
        "storage": {describe.HEAD: described.storage},
        "data": {},
        "leaks": [],
        "versions": versions(),
    }
    return metadata.TrainedModel(
        described.config, names, params, 0, meta, notes=(*described.notes, *_unused_lines(unused))
    )


def _read_names(path: str) -> tuple[str, ...]:
    if not path:
        return ()
    names = tuple(filter(None, map(str.strip, epath.Path(path).expanduser().read_text().splitlines())))
    if not names:
        raise ConfigError(f"--class_names={path}: has no line; it must have the name of one class per line")
    return names


def _params(
    source: str, opened: sources.Opened, described: describe.Description, class_names: dict[str, list[str]]
) -> tuple[dict[str, Any], Mapping[str, str]]:
    """All parameters of the model, on the host; and what was not read (`loader.LoadedWeights.unused`).

    Raises:
        PretrainedError: the source lacks some, or they have other shapes.
    """
    named = dataclasses.replace(opened, config=opened.config | {"id2label": dict(enumerate(described.class_names))})
    model = described.config.model
    loaded = loader.load(source, model, class_names, named)
    shapes = _shapes(model, {head: len(names) for head, names in class_names.items()})
    arrays = {path: np.zeros(shapes[path], np.float32) for path in _ZEROS if path in shapes} | dict(loaded.params)
    if missing := sorted(shapes.keys() - arrays.keys()):
        raise PretrainedError(f"{source}: is not complete, it has nothing for {', '.join(missing)}")
    if wrong := [path for path, shape in shapes.items() if arrays[path].shape != shape]:
        path = wrong[0]
        raise PretrainedError(f"{source}: {path} is {arrays[path].shape}, not {shapes[path]}")
    params: dict[str, Any] = traverse_util.unflatten_dict({path: arrays[path] for path in shapes}, sep="/")
    return params | {"heads": params.get("heads", {})}, loaded.unused


def _unused_lines(unused: Mapping[str, str]) -> list[str]:
    """One line per reason, with the first tensor that has it."""
    names: dict[str, list[str]] = {}
    for name, why in unused.items():
        names.setdefault(why, []).append(name)
    return [
        f"not taken: {first}{f' and {len(more)} more' if more else ''}: {why}" for why, (first, *more) in names.items()
    ]


def _shapes(model: ConfigDict, num_classes: dict[str, int]) -> dict[str, tuple[int, ...]]:
    """Path -> shape of each parameter."""
    tree = jax.eval_shape(cover.functional(model, num_classes).init, jax.random.key(0))
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(tree, sep="/").items()}
