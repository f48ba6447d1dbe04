"""Says what there is of datasets against what should be: `python -m data_pipelines.doctor DATASET ...`.

    python -m data_pipelines.doctor video_folder/ucf101 kinetics/400     # prepared ones, and leaks between them
    python -m data_pipelines.doctor --raw video_folder --name=ucf101 --source=/data/ucf101 ...    # files, before

After --raw come the flags of `data_pipelines.prepare`. Beside what is printed it writes a manifest (JSON) and a page
(HTML): in a prepared dataset's folder, or where --output says.
"""

import argparse
import sys

from data_pipelines import escaping
from data_pipelines.doctor import examine


def main(arguments: list[str]) -> None:
    """The command."""
    args, rest = _parser().parse_known_args(arguments)
    try:
        if args.raw:
            examine.examine_sources([*args.datasets, *rest], args.output)
        elif rest or not args.datasets:
            _parser().error(f"unknown arguments: {' '.join(rest)}" if rest else "which datasets?")
        else:
            examine.examine_prepared(args.datasets, args.data_dir, args.output, args.frames_feature)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {escaping.escape_text(error)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.doctor", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("datasets", nargs="*", help="prepared datasets, NAME or NAME/CONFIG; after --raw a builder")
    parser.add_argument("--raw", action="store_true", help="look at the files that a dataset would be prepared from")
    parser.add_argument("--data_dir", default="", help="where prepared datasets stand (TFDS's default)")
    parser.add_argument("--output", default="", help="folder for manifest.json and doctor.html")
    parser.add_argument("--frames_feature", default="", help="feature with the pictures (frames, image or video)")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
