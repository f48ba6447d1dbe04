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

import sys

from absl import app, flags, logging
from etils import epath

from cover_jax.checkpoint import restore
from cover_jax.export import formats, model_card
from cover_jax.models.pretrained.errors import PretrainedError

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run, local or gs://.")
_STEP = flags.DEFINE_string("step", "newest", "Which of its checkpoints: newest, best, or a number.")
_HEAD = flags.DEFINE_string("head", None, "Which head's logits.")
_FORMAT = flags.DEFINE_enum("format", None, ["hugging_face", "jax", "saved_model"], "See above.")
_OUT = flags.DEFINE_string("out", None, "Folder to write, local or gs://.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"arguments that are no flags: {' '.join(argv[1:])}")
    logging.set_verbosity(logging.WARNING)
    try:
        trained = restore.load_trained(_WORKDIR.value, _STEP.value)
        if _HEAD.value not in trained.class_names:
            sys.exit(f"error: --head={_HEAD.value}: must be one of {', '.join(trained.class_names)}")
        writers = {
            "hugging_face": formats.to_hugging_face,
            "jax": formats.to_jax,
            "saved_model": formats.to_saved_model,
        }
        writers[_FORMAT.value](trained, _HEAD.value, _OUT.value)
        model_card.write(trained, _HEAD.value, _FORMAT.value, _OUT.value)
    except restore.CheckpointDamagedError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (OSError, PretrainedError) as error:
        sys.exit(f"error: {error}")
    print(f"{_OUT.value}: {', '.join(sorted(path.name for path in epath.Path(_OUT.value).iterdir()))}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir", "head", "format", "out"])
    app.run(main)
