"""Writes a trained model with one of its heads for use elsewhere.

    python -m cover_jax.export --workdir=/tmp/cover_demo --head=motion --format=hugging_face --out=/tmp/motion

--format=hugging_face: for `TimesformerForVideoClassification.from_pretrained(OUT)`, and for config.model.init_from=OUT.
--format=jax: a program and its parameters, for any number of clips, on a CPU, GPU or TPU, without this package:

    program = jax.export.deserialize(open("OUT/model.jax_export", "rb").read())
    logits = program.call(safetensors.numpy.load_file("OUT/params.safetensors"), frames)

with frames float32 [any number, num_frames, size_px, size_px, 3], normalised as OUT/config.json says.
--format=saved_model: for TensorFlow 2.21 or newer and what serves it, without JAX:

    logits = tf.saved_model.load("OUT").signatures["serving_default"](frames=frames)["logits"]

with frames uint8 [any number, num_frames, size_px, size_px, 3], red, green, blue: the program normalises them.

OUT/README.md is the model's card: its data, accuracy and limits, and a program that loads it.
"""

import json
import sys
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from absl import app, flags, logging
from etils import epath
from flax import traverse_util
from jax import export as jax_export
from ml_collections import ConfigDict

from cover_jax import checkpoint, model_card, preprocess
from cover_jax.models import cover, pretrained, variants
from cover_jax.models.pretrained import hugging_face

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run, local or gs://.")
_STEP = flags.DEFINE_string("step", "newest", "Which of its checkpoints: newest, best, or a number.")
_HEAD = flags.DEFINE_string("head", None, "Which head's logits.")
_FORMAT = flags.DEFINE_enum("format", None, ["hugging_face", "jax", "saved_model"], "See above.")
_OUT = flags.DEFINE_string("out", None, "Folder to write, local or gs://.")

PLATFORMS = ("cpu", "cuda", "tpu")


def to_hugging_face(trained: checkpoint.Trained, head: str, out: str) -> None:
    """model.safetensors, config.json and preprocessor_config.json of a Hugging Face TimeSformer.

    Raises:
        PretrainedError: the head is not linear, or its dataset has `standardize`, which their processor cannot do.
    """
    if trained.dataset(head).standardize:
        raise pretrained.PretrainedError(
            f"datasets.{head}.standardize: Hugging Face's image processor cannot; export as jax or saved_model"
        )
    patch_px = variants.parse(trained.config.model.variant).patch_px
    weights = hugging_face.tensors(trained.params, head, patch_px)
    _write(out, "model.safetensors", safetensors.numpy.save(weights, metadata={"format": "pt"}))
    _write_json(out, "config.json", hugging_face.config(trained.config.model, trained.class_names[head]))
    _write_json(out, "preprocessor_config.json", hugging_face.preprocessor_config(trained.config.model))


def to_jax(trained: checkpoint.Trained, head: str, out: str) -> None:
    """model.jax_export, params.safetensors and a config.json with class names, frame size and normalisation."""
    model = trained.config.model
    flat, logits = _flat(trained, head), _logits(model, head, len(trained.class_names[head]))
    _write(out, "model.jax_export", _program(logits, flat, model, jnp.float32).serialize())
    _write(out, "params.safetensors", safetensors.numpy.save({n: np.ascontiguousarray(x) for n, x in flat.items()}))
    if trained.dataset(head).standardize:
        frames = "float32, red, green, blue: each clip less its mean, over its standard deviation or 1 level"
        _write_about(out, trained, head, frames, ("num_frames", "size_px"))
    else:
        frames = "float32, red, green, blue: (value / 255 - pixel_mean) / pixel_std"
        _write_about(out, trained, head, frames, ("num_frames", "size_px", "pixel_mean", "pixel_std"))


def to_saved_model(trained: checkpoint.Trained, head: str, out: str) -> None:
    """A TensorFlow SavedModel of uint8 frames, and a config.json with class names and frame size."""
    from cover_jax import saved_model  # here and not above: it brings TensorFlow, which takes long to load

    model, flat = trained.config.model, _flat(trained, head)
    logits, standardize = _logits(model, head, len(trained.class_names[head])), trained.dataset(head).standardize

    def of_pixels(flat, frames_BTHWC):
        levels_BTHWC = frames_BTHWC.astype(jnp.float32)
        return logits(flat, preprocess.normalize(levels_BTHWC, model.pixel_mean, model.pixel_std, standardize))

    saved_model.write(out, _program(of_pixels, flat, model, jnp.uint8), flat)
    _write_about(out, trained, head, "uint8, red, green, blue", ("num_frames", "size_px"))


def _flat(trained: checkpoint.Trained, head: str) -> dict[str, np.ndarray]:
    """Parameters of the backbone and one head by their paths."""
    params = {"backbone": trained.params["backbone"], "heads": {head: trained.params["heads"][head]}}
    return traverse_util.flatten_dict(params, sep="/")


def _logits(model: ConfigDict, head: str, num_classes: int) -> Callable[[dict, jax.Array], jax.Array]:
    """(flat parameters, normalised frames) -> logits."""
    model = model.copy_and_resolve_references()
    model.attention = "einsum"  # a kernel would run on one platform only
    apply = cover.functional(model, {head: num_classes}).apply
    return lambda flat, frames_BTHWC: apply(traverse_util.unflatten_dict(flat, sep="/"), frames_BTHWC, head)


def _program(logits: Callable, flat: dict, model: ConfigDict, dtype: jnp.dtype) -> jax_export.Exported:
    """(flat parameters, frames of `dtype`) -> logits, for a number of clips that is open."""
    (batch,) = jax_export.symbolic_shape("batch")
    shapes = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), flat)
    exported = jax_export.export(jax.jit(logits), platforms=PLATFORMS)
    return exported(shapes, jax.ShapeDtypeStruct((batch, model.num_frames, model.size_px, model.size_px, 3), dtype))


def _write(out: str, name: str, data: bytes) -> None:
    folder = epath.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(bytes(data))


def _write_about(out: str, trained: checkpoint.Trained, head: str, frames: str, keys: Sequence[str]) -> None:
    about = {key: trained.config.model[key] for key in keys}
    _write_json(out, "config.json", {"class_names": trained.class_names[head], "frames": frames, **about})


def _write_json(out: str, name: str, content: dict) -> None:
    _write(out, name, json.dumps(content, indent=2).encode())


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"arguments that are no flags: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)
    try:
        trained = checkpoint.load_trained(_WORKDIR.value, _STEP.value)
        if _HEAD.value not in trained.class_names:
            sys.exit(f"error: --head={_HEAD.value}: must be one of {', '.join(trained.class_names)}")
        writers = {"hugging_face": to_hugging_face, "jax": to_jax, "saved_model": to_saved_model}
        writers[_FORMAT.value](trained, _HEAD.value, _OUT.value)
        model_card.write(trained, _HEAD.value, _FORMAT.value, _OUT.value)
    except checkpoint.CheckpointDamagedError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (OSError, pretrained.PretrainedError) as error:
        sys.exit(f"error: {error}")
    print(f"{_OUT.value}: {', '.join(sorted(path.name for path in epath.Path(_OUT.value).iterdir()))}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir", "head", "format", "out"])
    app.run(main)
