"""The page of training clips: as stored, and as the model sees them."""

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from markupsafe import Markup
from ml_collections import ConfigDict
from PIL import Image

from cover_jax.config import schema
from cover_jax.parallel import sharding
from cover_jax.preprocess import frame_size, model_input
from cover_jax.training import inputs, progress
from data_pipelines.output import html
from data_pipelines.output.html import escape
from data_pipelines.stream import mixture, records
from data_pipelines.stream.batch import Batch

# B clips, T frames, H height, W width


def render(config: ConfigDict, num_clips: int) -> str:
    """The page, with the first `num_clips` training clips of each dataset of a validated config.

    Raises:
        DatasetNotPreparedError, ConfigError: as in `inputs.open_dataset`.
    """
    train_splits, eval_splits = inputs.open_splits(config)
    config = frame_size.with_canvases(config, inputs.frame_sizes(config, train_splits, eval_splits))
    config = _without_mixing(config, num_clips)
    sections = [_section(config, name, train_splits[name]) for name in mixture.by_clip_source(config.datasets)]
    said = f"One random draw per clip, as in training; {config.model.size_px} px."
    return html.document("Training clips as the model sees them", f"<p>{said}</p>{''.join(sections)}")


def _without_mixing(config: ConfigDict, num_clips: int) -> ConfigDict:
    """The config with batches of `num_clips` different clips."""
    config = copy.deepcopy(config)
    for dataset in config.datasets.values():
        dataset.batch_size, dataset.repeats = num_clips, 1
    return config


def _section(config: ConfigDict, name: str, split: records.Split) -> Markup:
    dataset = config.datasets[name]
    batch = _first_batch(config, name, split)
    shown = html.pictures(_figures(batch, seen_clips(batch, config.model, dataset, split.class_names), split), "16rem")
    mixes = [kind for kind in ("mixup", "cutmix") if dataset.augment[f"{kind}_alpha"]]
    note = f"Not shown: {' and '.join(mixes)}, which training adds." if mixes else ""
    return Markup(f"<section><h2>{escape(name)}</h2><p>{escape(note)}</p>{shown}</section>")


def _first_batch(config: ConfigDict, name: str, split: records.Split) -> Batch:
    mesh = sharding.make_mesh(schema.get_config().mesh, jax.devices()[:1])
    with inputs.open_stream(config, name, split, mesh, first_batch=0) as stream:
        return next(stream)


def seen_clips(
    batch: Batch, model: ConfigDict, dataset: ConfigDict, class_names: Sequence[str]
) -> dict[str, np.ndarray]:
    """The clips as they enter the model, before normalisation: `frames` [B, T, H, W, 3], 0..1.

    `stored` and `seen` are the targets [B, C] before and after mirroring, without label smoothing.

    Args:
        batch: of the training stream.
        model, dataset: of the config. Mixup and cutmix are left out.
        class_names: in the order of the labels.
    """
    dataset = copy.deepcopy(dataset)
    dataset.augment.mixup_alpha = dataset.augment.cutmix_alpha = dataset.label_smoothing = 0.0
    settings = model_input.TrainInput.of(model, dataset, class_names)
    settings = dataclasses.replace(settings, normalization=model_input.SHARES)
    arrays: Any = {key: value for key, value in batch.items() if key != "index"}
    seen = jax.jit(lambda arrays: model_input.train(arrays, settings))(arrays)
    stored = settings.task.targets(settings.task.answers(arrays), len(class_names), 0.0)
    return {"frames": np.asarray(seen["frames"]), "seen": np.asarray(seen["targets"]), "stored": np.asarray(stored)}


def _figures(batch: Batch, seen: dict[str, np.ndarray], split: records.Split) -> Iterator[Markup]:
    """Two figures per clip: as stored, and as the model sees it."""
    for i, weight in enumerate(batch["weight"]):
        label, after = (_names(seen[key][i], split.class_names) for key in ("stored", "seen"))
        if not weight:
            yield Markup(f"<p>{escape(label)}: example {batch['index'][i]} cannot be decoded.</p>")
            continue
        height, width = batch["size_px"][i]
        mirrored = f", mirrored, so its class is {after}" if after != label else ""
        yield _figure(batch["frames"][i, :, :height, :width] / 255, f"{label}: stored")
        yield _figure(seen["frames"][i], f"{label}: seen by the model{mirrored}")


def _names(targets_C: np.ndarray, class_names: Sequence[str]) -> str:
    return ", ".join(class_names[i] for i in np.flatnonzero(targets_C).tolist()) or "no class"


def _figure(frames_THW3: np.ndarray, caption: str) -> Markup:
    picture = progress.shrink_preview(np.asarray(frames_THW3, np.float32)[None])
    return html.picture(Image.fromarray(np.round(255 * picture).astype(np.uint8)), caption, caption)
