"""Checks datasets for missing, damaged and leaked examples, raw or prepared.

    python -m data_pipelines.doctor video_folder/ucf101 kinetics/400 --data_dir=/data/prepared
    python -m data_pipelines.doctor --config=configs/cover_l.py --data_dir=/data/prepared
    python -m data_pipelines.doctor --raw video_folder --name=ucf101 --source=/data/ucf101

For prepared datasets it also finds the leaks between them. With --config it examines all datasets of a config, and
searches the splits that a run with this config compares, so that the run does not have to. After --raw come the builder
and the flags of `python -m data_pipelines.prepare`: then it examines the files from which the dataset would be
prepared. It prints a summary and writes a manifest (JSON) and a page (HTML) to the prepared dataset's folder, or to
--out.
"""

import sys

from data_pipelines import command_line
from data_pipelines.command_line import UsageError
from data_pipelines.config_file import load


def _parser() -> command_line.Parser:
    parser = command_line.Parser("data_pipelines.doctor", __doc__)
    parser.add_argument(
        "datasets", nargs="*", metavar="DATASET", help="prepared datasets, NAME or NAME/CONFIG; after --raw a builder"
    )
    parser.add_argument("--raw", action="store_true", help="examine the files from which a dataset would be prepared")
    parser.add_argument("--config", default="", metavar="FILE[:ARGUMENT]", help="examine the datasets of this config")
    parser.add_shared("data_dir")
    parser.add_shared("out", default="", metavar="DIR", help="folder for manifest.json and doctor.html")
    parser.add_old("--output", "--out")
    parser.add_argument(
        "--frames_feature", default="", metavar="NAME", help="feature with the pictures (frames, image or video)"
    )
    return parser


@command_line.command(ValueError)
def main(arguments: list[str]) -> None:
    """Runs the command."""
    parser = _parser()
    args, rest = parser.parse_known_args(arguments)
    if rest and not args.raw:
        raise UsageError(parser.describe_unknown(rest[0]))
    if bool(args.config) + args.raw > 1 or (args.config and args.datasets):
        raise UsageError("--config names the datasets: it goes with neither --raw nor a DATASET")
    if not args.raw and not args.datasets and not args.config:
        raise UsageError(f"which datasets? (see {parser.prog} --help)")
    config = load(args.config) if args.config else None
    from data_pipelines.doctor import examine  # imports TensorFlow, so only after the arguments are checked

    if args.raw:
        examine.examine_sources([*args.datasets, *rest], args.out)
    elif config:
        examine.examine_mix(config, args.data_dir or config.data_dir, args.out)
    else:
        examine.examine_prepared(args.datasets, args.data_dir, args.out, args.frames_feature)


if __name__ == "__main__":
    main(sys.argv[1:])
