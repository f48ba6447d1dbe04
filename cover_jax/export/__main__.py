"""Exports a trained model with one of its heads, for use without this package.

    python -m cover_jax.export --workdir=/tmp/cover_demo --head=motion --format=hugging_face --out=/tmp/motion

--format=hugging_face: for `TimesformerForVideoClassification.from_pretrained(OUT)`, and for config.model.init_from=OUT.
--format=jax: a program and its parameters, for any number of clips, on a CPU, GPU or TPU:

    program = jax.export.deserialize(open("OUT/model.jax_export", "rb").read())
    logits = program.call(safetensors.numpy.load_file("OUT/params.safetensors"), frames)

with frames float32 [any number, num_frames, size_px, size_px, 3], normalised as described in OUT/config.json.
--format=saved_model: for TensorFlow 2.21 or newer and its serving systems, without JAX:

    logits = tf.saved_model.load("OUT").signatures["serving_default"](frames=frames)["logits"]

with frames uint8 [any number, num_frames, size_px, size_px, 3], red, green, blue. The program normalises them.

OUT/README.md is the model card: data, accuracy, limits, and a program that loads the model.
"""

import sys

from cover_jax.models.pretrained.errors import PretrainedError
from cover_jax.published import flags as source_flags
from data_pipelines import command_line
from data_pipelines.command_line import UsageError

FORMATS = ("hugging_face", "jax", "saved_model")


def _parser() -> command_line.Parser:
    parser = command_line.Parser("cover_jax.export", __doc__)
    source_flags.add_source(parser)
    parser.add_shared("head", required=True, help="the head whose logits the model gives")
    parser.add_shared("format", required=True, choices=FORMATS, help="what to write, see above")
    parser.add_shared("out", required=True, metavar="DIR", help="folder to write, local or gs://")
    return parser


@command_line.command(PretrainedError)
def main(arguments: list[str]) -> None:
    """Runs the command."""
    args = _parser().parse_args(arguments)
    from etils import epath

    from cover_jax.export import formats, model_card  # JAX and orbax load slowly: check the arguments first
    from cover_jax.published import load

    trained = load.load(args.workdir, args.step, **source_flags.source_options(args))
    if trained.notes:
        print("\n  ".join(trained.notes), file=sys.stderr)
    if args.head not in trained.class_names:
        raise UsageError(f"--head={args.head}: must be one of {', '.join(trained.class_names)}")
    getattr(formats, f"to_{args.format}")(trained, args.head, args.out)
    model_card.write(trained, args.head, args.format, args.out)
    print(f"{args.out}: {', '.join(sorted(path.name for path in epath.Path(args.out).iterdir()))}")


if __name__ == "__main__":
    main(sys.argv[1:])
