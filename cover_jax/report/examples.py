"""The clips or images of which a model is least and most sure, as thumbnails."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from cover_jax.evaluation.saved_predictions import SavedPredictions
from cover_jax.tasks import registry
from data_pipelines.leaks import facts
from data_pipelines.output import html
from data_pipelines.output.html import escape
from data_pipelines.stream import records

NUM_WORST, NUM_BEST = 12, 6  # at most half of all each
FRAMES = 3  # of a clip, beside each other
FRAME_PX, IMAGE_PX = 112, 160  # longer side
GAP_PX = 2


class UnavailableError(Exception):
    """The pictures cannot be shown; the message says why."""


def section(evaluated: SavedPredictions, class_names: Sequence[str], dataset, data_dir: str) -> Markup:
    """Worst and best examples of one dataset; where its data is not there, why not.

    Args:
        evaluated: its evaluation.
        class_names: of its head.
        dataset: its entry in the config.
        data_dir: where prepared datasets stand.
    """
    try:
        split = _open(evaluated, dataset, data_dir)
    except UnavailableError as error:
        return Markup(f'<h3>Worst and best</h3><p class="muted">No pictures: {escape(error)}</p>')
    predictions = evaluated.predictions
    # A model that has diverged gives NaN: the worst.
    task = registry.of_predictions(predictions)
    order = np.argsort(np.nan_to_num(task.sureness(predictions)), kind="stable")
    clips, half = split.modality == "video", (len(order) + 1) // 2

    def shown(rows):
        figures = [_figure(split, predictions, row, class_names, dataset.frames_feature, clips) for row in rows]
        return html.pictures(figures, "16rem" if clips else "8.5rem")

    return Markup(
        f"<h3>Worst: {task.worst}</h3>{shown(order[:half][:NUM_WORST])}"
        f"<h3>Best: {task.best}</h3>{shown(order[half:][::-1][:NUM_BEST])}"
    )


def _open(evaluated: SavedPredictions, dataset, data_dir: str) -> records.Split:
    """The evaluated split.

    Raises:
        UnavailableError: it is not there, or is another one by now.
    """
    try:
        split = records.open_split(dataset.builder, dataset.eval_split, data_dir)
    except (ValueError, OSError) as error:
        raise UnavailableError(error) from error
    if split.fingerprint != evaluated.fingerprint:
        raise UnavailableError(f"the prepared data of {dataset.builder} has changed since; --mode=evaluate looks anew")
    return split


def _figure(split, predictions: Any, row: int, class_names, frames_feature: str, clips: bool) -> Markup:
    found = registry.of_predictions(predictions).told(predictions, row)
    true, said = ([(class_names[label], probability) for label, probability in part] for part in found)
    text = _in_words(true) + (f"<br>taken for {_in_words(said)}" if said else "")
    try:
        jpegs, source = facts.some_frames(split, int(predictions.index[row]), frames_feature, FRAMES if clips else 1)
        image = _side_by_side([html.thumbnail(jpeg, FRAME_PX if clips else IMAGE_PX) for jpeg in jpegs])
    except (*facts.DAMAGE, OSError) as error:
        return Markup(f"<figure>{text}<br>cannot be read: {escape(type(error).__name__)}</figure>")
    names = [", ".join(name for name, _ in part) or "no class" for part in (true, said or true)]
    alt = f"{'Frames of a clip' if clips else 'An image'} of {names[0]}, taken for {names[1]}"
    name = f'<br><span class="muted">{escape(source)}</span>' if source else ""
    return html.picture(image, alt, Markup(text + name))


def _in_words(told: Sequence[tuple[str, float]]) -> str:
    """Classes with their probabilities."""
    return ", ".join(f"<b>{escape(name)}</b> {probability:.1%}" for name, probability in told) or "<i>no class</i>"


def _side_by_side(frames: list[Image.Image]) -> Image.Image:
    """Frames of one size in one picture, in time from left to right."""
    width, height = frames[0].size
    strip = Image.new("RGB", (len(frames) * (width + GAP_PX) - GAP_PX, height), "gray")
    for i, frame in enumerate(frames):
        strip.paste(frame, (i * (width + GAP_PX), 0))
    return strip
