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

--head=epic/verb takes one of the heads of a dataset that has several. Hugging Face's model has one classifier, so it
needs one.

OUT/README.md is the model card: data, accuracy, limits, and a program that loads the model.

    python -m cover_jax.export --workdir=/tmp/cover_demo --head=motion --format=hugging_face --push_to=ORG/REPO

uploads it to the Hugging Face hub, as a private repository without --public.
"""

import argparse
import sys
import tempfile

from cover_jax.models.pretrained.errors import PretrainedError
from cover_jax.published import flags as source_flags
from data_pipelines import command_line
from data_pipelines.command_line import UsageError

FORMATS = ("hugging_face", "jax", "saved_model")


def _parser() -> command_line.Parser:
    parser = command_line.Parser("cover_jax.export", __doc__)
    source_flags.add_source(parser)
    parser.add_shared(
        "head",
        default="",
        help="whose logits the model gives; DATASET/HEAD: one of several of a dataset (the only one)",
    )
    parser.add_shared("format", required=True, choices=FORMATS, help="what to write, see above")
    parser.add_shared("out", default="", metavar="DIR", help="folder to write, local or gs://")
    hub = parser.add_argument_group("Hugging Face hub")
    hub.add_argument("--push_to", default="", metavar="ORG/REPO", help="upload the model there, with its card")
    hub.add_argument("--public", action=command_line.Switch, help="a new repository is public (private)")
    return parser


def _parse(arguments: list[str]) -> argparse.Namespace:
    args: argparse.Namespace = _parser().parse_args(arguments)
    if not args.out and not args.push_to:
        raise UsageError("--out: must be given, or --push_to")
    if args.push_to and args.format != "hugging_face":
        raise UsageError(f"--push_to={args.push_to}: needs --format=hugging_face")
    if args.public and not args.push_to:
        raise UsageError("--public: needs --push_to")
    return args


@command_line.command(PretrainedError)
def main(arguments: list[str]) -> None:
    """Runs the command."""
    args = _parse(arguments)
    from etils import epath

    # JAX and orbax load slowly: check the arguments first
    from cover_jax.export import formats, model_card, one_head, push
    from cover_jax.published import load

    if args.push_to:
        push.check(args.push_to)
    trained = load.load(args.workdir, args.step, **source_flags.source_options(args))
    if trained.notes:
        print("\n  ".join(trained.notes), file=sys.stderr)
    trained, head = one_head.choose(trained, args.head)

    def export_to(out: str) -> None:
        getattr(formats, f"to_{args.format}")(trained, head, out)
        model_card.write(trained, head, args.format, out)

    if args.out:
        export_to(args.out)
        print(f"{args.out}: {', '.join(sorted(path.name for path in epath.Path(args.out).iterdir()))}")
    if args.push_to:
        with tempfile.TemporaryDirectory() as folder:  # --out may have other files
            export_to(folder)
            print(push.push(folder, args.push_to, args.public))


if __name__ == "__main__":
    main(sys.argv[1:])
