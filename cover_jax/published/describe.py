"""What the files of a published model say, as a config of this project; what they do not say, by its model family."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cover_jax.config import schema
from cover_jax.models.pretrained import hugging_face_export, loader, sources
from cover_jax.models.pretrained.errors import PretrainedError, refuse_unreadable
from cover_jax.tasks import registry

HEAD = "classifier"  # the name of its one head
KINETICS_FPS = 30
# Frames of a clip -> every how manyth of 30 frames per second is taken: facebookresearch/TimeSformer, configs/Kinetics/
# TimeSformer_divST_8x32_224_K400.yaml, TimeSformer_divST_16x16_448_K400.yaml, TimeSformer_divST_96x4_224_K400.yaml.
TIMESFORMER_STRIDES = {8: 32, 16: 16, 96: 4}
TIMESFORMER_CROPS = 3  # TEST.NUM_SPATIAL_CROPS of the same files
SOMETHING_CLASSES = 174  # of Something-Something, whose clips are cut into segments (timesformer/datasets/ssv2.py)
_SOMETHING = re.compile(r"ssv?2|something", re.IGNORECASE)
_NO_NAME = re.compile(r"LABEL_\d+")  # what Hugging Face writes where nobody named the classes
_BILINEAR = 2  # of PIL.Image.Resampling
_LEVELS = 255  # what 8-bit pixels are divided by
# How a clip's frames are read, before the device resizes them once more; this project's choice. Twice the model's side
# keeps the error of JPEG small; the rate is at least four times the rate at which frames are sampled.
_STORED_SIDES = 2
_STORED_FPS = 10.0
_STORED_RATES = 4
_OWN = hugging_face_export.OWN_SECTION


@dataclasses.dataclass(frozen=True)
class Description:
    """A published model, without its parameters.

    Attributes:
        config: with its sizes and settings in `model`, and one dataset: how its clips are sampled and seen.
        class_names: of its classifier, in order; empty if it has none.
        storage: how clips are read (`prepare.base.STORAGE`).
        notes: for people: what its files say, and what is assumed.
    """

    config: ConfigDict
    class_names: tuple[str, ...]
    storage: dict[str, Any]
    notes: tuple[str, ...]


@refuse_unreadable
def describe(source: str, opened: sources.Opened, class_names: Sequence[str] = ()) -> Description:
    """Describes a published model.

    Args:
        source: its name, for messages; it may name the dataset that the model was trained on.
        opened: its files.
        class_names: in place of those in its files.

    Raises:
        PretrainedError: this project cannot compute the model, or the class names do not fit its classifier.
    """
    facts = loader.inspect(source, opened)
    names, about_names = _class_names(source, facts, class_names)
    side_px, share, about_crop = _crop(facts, opened.preprocessor)
    sampling, about_sampling = _sampling(source, facts, opened)
    pixels, about_pixels = _pixels(source, facts, opened)
    config = schema.get_config()
    model = {"variant": facts.variant, "size_px": side_px, "num_frames": facts.num_frames, "init_from": source}
    # Of float32, its logits equal those of its own code.
    config.model.update(model | facts.settings | pixels | {"dtype": "float32", "remat": "none"})
    config.datasets = {HEAD: schema.dataset()}
    config.datasets[HEAD].update({"num_frames": facts.num_frames, "eval_crop_share": share, **sampling})
    config.datasets[HEAD].task = _task(source, opened.config)
    storage = {
        "short_side_px": round(_STORED_SIDES * side_px / share),
        "fps": max(_STORED_FPS, _STORED_RATES * config.datasets[HEAD].sample_fps),
    }
    told = (
        f"{source}: {facts.family}, {facts.variant}, {about_names}",
        f"its files say: {_count(facts.num_frames, 'frame')} of {side_px} px{about_crop}",
        f"its settings: GELU {config.model.gelu}, layer_norm_eps {config.model.layer_norm_eps:g}",
        about_pixels,
        *about_sampling,
        *facts.assumed,
        *([f"its file has more, which is not read: {', '.join(aside)}"] if (aside := opened.tensors.set_aside) else []),
    )
    return Description(config, names, storage | opened.preprocessor.get(_OWN, {}).get("storage", {}), told)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _class_names(source: str, facts: loader.Facts, given: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The names of its classes, and what to say of them."""
    count = facts.num_classes
    if not count:
        return (), "no classifier"
    names = tuple(given) or facts.class_names or tuple(map(str, range(count)))
    if len(names) != count:
        where = "--class_names has" if given else "its config.json names"
        raise PretrainedError(f"{source}: its classifier has {count} classes, {where} {len(names)}")
    if given:
        return _unique(names), f"{count} classes, named by --class_names"
    if not facts.class_names or all(map(_NO_NAME.fullmatch, names)):
        return names, f"{count} classes without names ({names[0]}, ...): give them with --class_names=FILE"
    return _unique(names), f"{count} classes with names"


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """A second class of the same name gets its label behind it."""
    first = {name: label for label, name in reversed(list(enumerate(names)))}
    return tuple(name if first[name] == label else f"{name} ({label})" for label, name in enumerate(names))


def _task(source: str, config: Mapping[str, Any]) -> str:
    """The task of its head: Hugging Face's problem_type."""
    problem = config.get("problem_type")
    task = registry.of_problem(problem)
    if problem not in (None, "single_label_classification", registry.named(task).hub_problem):
        raise PretrainedError(f"{source}: its config.json has problem_type={problem!r}, which is not supported")
    return task


def _crop(facts: loader.Facts, preprocessor: Mapping[str, Any]) -> tuple[int, float, str]:
    """The square that the model sees, and what to say of its files' resizing.

    Returns:
        (side in pixels, side in units of the frame's shorter side, what to say).
    """
    patch_px = int(facts.variant.rpartition("/")[2])
    resized_px = _side_px(preprocessor.get("size"))
    cropped_px = _side_px(preprocessor.get("crop_size")) if preprocessor.get("do_center_crop", True) else None
    side_px = cropped_px or resized_px or facts.size_px
    differences, share = [], 1.0
    if side_px % patch_px:
        differences.append(f"its files crop {side_px} px, which is no multiple of the patch")
        side_px = facts.size_px
    elif cropped_px and resized_px and cropped_px < resized_px:
        share = cropped_px / resized_px
        differences.append(f"the middle of the frame, whose shorter side is {resized_px} px then")
    elif cropped_px and resized_px and cropped_px > resized_px:
        differences.append(f"its files resize to {resized_px} px and add black borders; here all of it is the frame")
    if isinstance(size := preprocessor.get("size"), dict) and "height" in size and not cropped_px:
        differences.append("its files squeeze the whole picture into a square; here a square of it is seen")
    if preprocessor.get("resample", _BILINEAR) != _BILINEAR:
        differences.append(f"its files resample={preprocessor['resample']}; here bilinear with antialiasing")
    if side_px != facts.size_px:
        differences.append(f"its positions are for {facts.size_px} px, so they are interpolated")
    return side_px, share, "".join(f"; {difference}" for difference in differences)


def _side_px(size: object) -> int | None:
    """A side in a preprocessor_config.json: a number, shortest_edge, or a square's height."""
    if isinstance(size, dict):
        size = size.get("shortest_edge") or (size.get("height") if size.get("height") == size.get("width") else None)
    return size if isinstance(size, int) and size > 0 else None


def _pixels(source: str, facts: loader.Facts, opened: sources.Opened) -> tuple[dict[str, tuple[float, ...]], str]:
    """`pixel_mean` and `pixel_std` where the settings lack them, and where the used ones come from."""
    factor = opened.preprocessor.get("rescale_factor", 1 / _LEVELS)
    if opened.preprocessor.get("do_rescale") is False or abs(factor * _LEVELS - 1) > 1e-3:
        raise PretrainedError(
            f"{source}: its preprocessor_config.json does not scale pixels to 0..1, which is not supported"
        )
    if opened.preprocessor.get("do_normalize") is False:
        return {"pixel_mean": (0.0,) * 3, "pixel_std": (1.0,) * 3}, "pixels: from 0 to 1, not normalised, say its files"
    settings: Mapping[str, Any] = facts.settings
    if not settings.keys() >= {"pixel_mean", "pixel_std"}:
        settings = schema.model()
    mean, std = (", ".join(f"{value:g}" for value in settings[key]) for key in ("pixel_mean", "pixel_std"))
    stated = "image_mean" in opened.preprocessor or "pretrained_cfg" in opened.config
    usual = "usual for this family" if settings is facts.settings else "this project's default"
    where = "say its files" if stated else f"assumed: {usual}, its files do not say them"
    return {}, f"pixels: mean {mean}, deviation {std}, {where}"


def _sampling(source: str, facts: loader.Facts, opened: sources.Opened) -> tuple[dict[str, Any], list[str]]:
    """Keys of the dataset that say which frames and views are seen, and the lines that say so."""
    if own := opened.preprocessor.get(_OWN):  # an export of this project
        own = {"eval_crop_share": 1.0} | own  # exports up to version 0.2.0 do not say it
        keys = ("num_frames", "sample_fps", "eval_clips", "eval_crops", "eval_crop_share")
        views = {key: own[key] for key in keys}
        return views, [f"sampled as when it was trained: {_rate(views['sample_fps'])} (say its files)"]
    if not facts.is_video:
        return {}, ["an image model: of a clip it sees the middle frame"]
    sample_fps, why = _family_fps(source, facts, opened)
    return {"sample_fps": sample_fps, "eval_crops": TIMESFORMER_CROPS}, [
        f"assumed: {_rate(sample_fps)}: {why}; no file says it; --sample_fps",
        f"assumed: 1 clip x {TIMESFORMER_CROPS} crops, as TimeSformer is evaluated; --eval_clips, --eval_crops",
    ]


def _family_fps(source: str, facts: loader.Facts, opened: sources.Opened) -> tuple[float, str]:
    """Frames per second, 0 for segments; and why."""
    where = f"{source} {opened.config.get('_name_or_path', '')}"
    if facts.num_classes == SOMETHING_CLASSES or _SOMETHING.search(where):
        return 0.0, "TimeSformer on Something-Something"
    if stride := TIMESFORMER_STRIDES.get(facts.num_frames):
        return KINETICS_FPS / stride, f"TimeSformer {facts.num_frames}x{stride} on clips of {KINETICS_FPS} a second"
    return 0.0, f"no TimeSformer of {facts.num_frames} frames has a known rate"


def _rate(sample_fps: float) -> str:
    return f"{sample_fps:g} frames per second" if sample_fps else "frames from equal parts of the whole clip"
