"""Says what is done in clips, or seen in images, by the heads of a trained model.

    python -m cover_jax.predict --checkpoint=/tmp/cover_demo --head=motion clip.mp4 folder/ *.webm

Without --head all heads answer. Files are read as their datasets were prepared and evaluated: the same frames, the same
views. A file that cannot be read is reported and the others go on; the exit status is then 1. With --explain=out.mp4
and one file, a video shows where and when the model looks. In Python:

    predictor = predict.load("/tmp/cover_demo", heads=["motion"])
    by_path = predictor("clip.mp4")["motion"].top(5)
    by_array = predictor(frames, fps=25.0)["motion"].top(5)  # uint8 [any number, height, width, 3]
"""

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Sequence

from absl import logging
from etils import epath
from tqdm import tqdm

from cover_jax.checkpoint import restore
from cover_jax.evaluation import tables
from cover_jax.predict import predictor, read_clips
from cover_jax.predict.predictor import Predictor, load_predictor
from data_pipelines import files
from data_pipelines.prepare import base


def find_files(paths: Sequence[str]) -> list[str]:
    """The paths, with all files of each folder, at any depth, in its place; hidden ones aside, and none twice."""
    return list(dict.fromkeys(path for given in paths for path in _expand(given)))


def _expand(given: str) -> list[str]:
    folder = epath.Path(given)
    return [os.fspath(folder / path) for path in files.walk(folder)] if folder.is_dir() else [given]


def to_rows(predictions: dict[str, predictor.HeadPredictions], top: int) -> list[dict[str, str | int | float]]:
    """A row a path, head and rank: path, head, rank, class, probability."""
    return [
        {"path": path, "head": head, "rank": rank, "class": name, "probability": probability}
        for path, by_head in predictions.items()
        for head, prediction in by_head.items()
        for rank, (name, probability) in enumerate(prediction.top(top), 1)
    ]


def as_table(rows: list[dict]) -> str:
    """For people; a path and a head stand only where they begin."""
    if not rows:
        return "nothing was predicted"
    shown, before = [], (None, None)
    for row in rows:
        path, head = row["path"], row["head"]
        shown.append({
            "path": path if path != before[0] else "",
            "head": head if (path, head) != before else "",
            "class": row["class"],
            "probability": f"{row['probability']:.1%}",
        })  # fmt: skip
        before = path, head
    return tables.table("", shown).lstrip()


def as_csv(rows: list[dict]) -> str:
    """With the columns of `to_rows`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["path", "head", "rank", "class", "probability"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip()


def as_json(rows: list[dict]) -> str:
    """{path: {head: [{class, probability}, ...]}}, the likeliest class first."""
    nested = {}
    for row in rows:
        guesses = nested.setdefault(row["path"], {}).setdefault(row["head"], [])
        guesses.append({"class": row["class"], "probability": row["probability"]})
    return json.dumps(nested, indent=2)


FORMATS = {"table": as_table, "json": as_json, "csv": as_csv}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cover_jax.predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a video, an image or a folder, local or gs://")
    parser.add_argument("--checkpoint", required=True, help="--workdir of a run")
    parser.add_argument("--step", default="newest", help="of the checkpoint: newest, best, or its number (newest)")
    parser.add_argument("--head", default="", help="one or several, separated by commas; none: all")
    parser.add_argument("--top", type=int, default=5, help="how many classes are shown (5)")
    parser.add_argument("--format", choices=FORMATS, default="table", help="of what is printed (table)")
    parser.add_argument("--batch_size", type=int, default=8, help="files at once (8)")
    parser.add_argument("--explain", default="", metavar="VIDEO", help="of one file: where and when the model looks")
    storage = parser.add_argument_group("as the datasets were prepared", "needed where that was not by default")
    for name in read_clips.STORAGE:
        default, help_text = base.VideoFiles.OPTIONS[name]
        storage.add_argument(f"--{name}", type=type(default), default=argparse.SUPPRESS, help=help_text)
    return parser


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict]:
    """The flags, and those of them that say how datasets were prepared."""
    parser = _parser()
    args = parser.parse_args(arguments)
    storage = {name: vars(args)[name] for name in read_clips.DEFAULT_STORAGE if name in args}
    for name in ("top", "batch_size", *storage):
        if vars(args)[name] <= 0:
            parser.error(f"--{name}={vars(args)[name]}: must be positive")
    return args, storage


def _predict_all(
    predictor: Predictor, paths: list[str], batch_size: int
) -> tuple[dict[str, predictor.HeadPredictions], int]:
    """What is said of each path that can be read, and how many cannot, which are reported at once."""
    said, num_bad = {}, 0
    with tqdm(predictor.many(paths, min(batch_size, len(paths))), "predicting", len(paths), unit="file") as bar:
        for path, outcome in bar:
            if isinstance(outcome, Exception):
                num_bad += 1
                bar.write(f"{path}: {type(outcome).__name__}: {outcome}", file=sys.stderr)
            else:
                said[path] = outcome
    return said, num_bad


def main(arguments: list[str]) -> None:
    """The command."""
    args, storage = _parse(arguments)
    logging.set_verbosity(logging.WARNING)
    paths = find_files(args.paths)
    if not paths:
        sys.exit(f"error: no files in {', '.join(args.paths)}")
    if args.explain and len(paths) > 1:
        sys.exit(f"error: --explain={args.explain} is of one file, not of {len(paths)}")
    try:
        predictor = load_predictor(
            args.checkpoint, [head for head in args.head.split(",") if head], args.step, **storage
        )
    except restore.CheckpointDamagedError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"step {predictor.step} of {args.checkpoint}", file=sys.stderr)
    said, num_bad = _predict_all(predictor, paths, args.batch_size)
    print(FORMATS[args.format](to_rows(said, args.top)))
    if args.explain and said:
        try:
            predictor.explain(predictor.read(paths[0]), args.explain)
        except (ValueError, OSError) as error:
            sys.exit(f"error: --explain={args.explain}: {error}")
    if num_bad:
        sys.exit(f"{num_bad} of {len(paths)} files could not be read")


if __name__ == "__main__":
    main(sys.argv[1:])
