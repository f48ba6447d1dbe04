"""Exports a trained model with one of its heads to Hugging Face, jax.export and TensorFlow SavedModel."""

import json
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from etils import epath
from flax import traverse_util
from jax import export as jax_export
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from cover_jax.checkpoint import metadata
from cover_jax.config import keys, schema
from cover_jax.export import one_head
from cover_jax.models import attention, variants
from cover_jax.models.pretrained import hugging_face_export
from cover_jax.models.pretrained.errors import PretrainedError
from cover_jax.preprocess import model_input
from cover_jax.tasks import registry
from cover_jax.training import setup

PLATFORMS = ("cpu", "cuda", "tpu")


def to_hugging_face(trained: metadata.TrainedModel, head: str, out: str) -> None:
    """Writes model.safetensors, config.json and preprocessor_config.json of a Hugging Face TimeSformer.

    Raises:
        PretrainedError: a setting of the model is not in Hugging Face's TimeSformer, the head is not linear, or its
            dataset has several heads (`one_head` takes one of them), or `standardize`, which Hugging Face does not
            support.
    """
    if trained.dataset(head).standardize:
        raise PretrainedError(
            f"datasets.{head}.standardize: not in Hugging Face's image processor; use --format=jax or saved_model"
        )
    if parts := one_head.parts_of(trained, head):
        each = " or ".join(f"--head={head}/{part.name}" for part in parts)
        raise PretrainedError(
            f"datasets.{head}.heads: Hugging Face's TimeSformer has one classifier; take one of them by {each}, or all "
            "by --format=jax or saved_model"
        )
    _check_hugging_face_holds(trained.config.model)
    patch_px = variants.parse(trained.config.model.variant).patch_px
    weights = hugging_face_export.tensors(trained.params, head, patch_px)
    _write(out, "model.safetensors", safetensors.numpy.save(weights, metadata={"format": "pt"}))
    problem = registry.of(trained.dataset(head)).hub_problem
    config = hugging_face_export.config(trained.config.model, trained.class_names[head], problem)
    _write_json(out, "config.json", config)
    own = {hugging_face_export.OWN_SECTION: _views(trained, head)}
    _write_json(
        out,
        "preprocessor_config.json",
        hugging_face_export.preprocessor_config(trained.config.model, trained.dataset(head).eval_crop_share) | own,
    )


def _views(trained: metadata.TrainedModel, head: str) -> dict[str, object]:
    """Which frames and views of a clip a head was trained and evaluated on."""
    keys = ("num_frames", "sample_fps", "eval_clips", "eval_crops", "eval_crop_share")
    return {key: trained.dataset(head)[key] for key in keys} | {"storage": trained.storage(head)}


def _check_hugging_face_holds(model: ConfigDict) -> None:
    """Refuses another value than the default of a key that is not in `hugging_face_export.HELD`."""
    defaults = schema.Model.config()
    for name in keys.differing(schema.Model, defaults, model, keys.Changes.SHAPE, keys.Changes.FUNCTION):
        if name not in hugging_face_export.HELD:
            value = f"config.model.{name}={model[name]!r}"
            raise PretrainedError(f"{value}: not in Hugging Face's TimeSformer; use --format=jax or saved_model")


def to_jax(trained: metadata.TrainedModel, head: str, out: str) -> None:
    """Writes model.jax_export, params.safetensors and a config.json with class names, frame size and normalisation."""
    model = trained.config.model
    flat, logits = _flat(trained, head), _logits(trained, head)
    _write(out, "model.jax_export", _program(logits, flat, model, jnp.float32).serialize())
    _write(out, "params.safetensors", safetensors.numpy.save({n: np.ascontiguousarray(x) for n, x in flat.items()}))
    if trained.dataset(head).standardize:
        frames = "float32, red, green, blue: (clip - its mean) / max(its standard deviation, 1 level)"
        _write_about(out, trained, head, frames, ("num_frames", "size_px"))
    else:
        frames = "float32, red, green, blue: (value / 255 - pixel_mean) / pixel_std"
        _write_about(out, trained, head, frames, ("num_frames", "size_px", "pixel_mean", "pixel_std"))


def to_saved_model(trained: metadata.TrainedModel, head: str, out: str) -> None:
    """Writes a TensorFlow SavedModel for uint8 frames, and a config.json with class names and frame size."""
    from cover_jax.export import saved_model  # imported here because TensorFlow loads slowly

    model, flat = trained.config.model, _flat(trained, head)
    logits, normalization = _logits(trained, head), model_input.Normalization.of(model, trained.dataset(head))

    def of_pixels(flat, frames_BTHWC):
        levels_BTHWC = frames_BTHWC.astype(jnp.float32)
        return logits(flat, model_input.normalize(levels_BTHWC, normalization))

    saved_model.write(out, _program(of_pixels, flat, model, jnp.uint8), flat)
    _write_about(out, trained, head, "uint8, red, green, blue", ("num_frames", "size_px"))


def _flat(trained: metadata.TrainedModel, head: str) -> dict[str, np.ndarray]:
    """Path -> parameter, of the backbone and one head."""
    params = {"backbone": trained.params["backbone"], "heads": {head: trained.params["heads"][head]}}
    return traverse_util.flatten_dict(params, sep="/")


def _logits(trained: metadata.TrainedModel, head: str) -> Callable[[dict, jax.Array], jax.Array]:
    """(flat parameters, normalised frames) -> logits."""
    model = trained.config.model.copy_and_resolve_references()
    if model.attention in attention.EXACT:
        model.attention = "einsum"  # a kernel would run on only one platform
    specs = {head: trained.head_spec(head)}
    apply = setup.make_model(model, {head: trained.class_names[head]}, head_specs=specs).apply
    return lambda flat, frames_BTHWC: apply(traverse_util.unflatten_dict(flat, sep="/"), frames_BTHWC, head)


def _program(logits: Callable, flat: dict, model: ConfigDict, dtype: DTypeLike) -> jax_export.Exported:
    """Exports (flat parameters, frames of `dtype`) -> logits, for any number of clips."""
    (batch,) = jax_export.symbolic_shape("batch")
    shapes = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), flat)
    exported = jax_export.export(jax.jit(logits), platforms=PLATFORMS)
    return exported(shapes, jax.ShapeDtypeStruct((batch, model.num_frames, model.size_px, model.size_px, 3), dtype))


def _write(out: str, name: str, data: bytes | bytearray) -> None:
    folder = epath.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(bytes(data))


def _write_about(out: str, trained: metadata.TrainedModel, head: str, frames: str, keys: Sequence[str]) -> None:
    about = {key: trained.config.model[key] for key in keys}
    answers = registry.of(trained.dataset(head)).described
    _write_json(out, "config.json", {"class_names": trained.class_names[head], **answers, "frames": frames, **about})


def _write_json(out: str, name: str, content: dict) -> None:
    _write(out, name, json.dumps(content, indent=2).encode())
