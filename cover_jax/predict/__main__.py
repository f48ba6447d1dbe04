"""Predicts the classes of clips and images with the heads of a trained model.

    python -m cover_jax.predict --workdir=/tmp/cover_demo --head=motion clip.mp4 folder/ *.webm
    python -m cover_jax.predict --workdir=/tmp/cover_demo --head=motion --explain=out.mp4 clip.mp4

Without --head, all heads predict. Files are read as the datasets were prepared and evaluated: with the same frames and
views. Files that cannot be read are reported and skipped; the exit code is then 1. With --explain=out.mp4 and one file,
a video shows where and when the model looks. In Python:

    predictor = predict.load("/tmp/cover_demo", heads=["motion"])
    by_path = predictor("clip.mp4")["motion"].top(5)
    by_array = predictor(frames, fps=25.0)["motion"].top(5)  # uint8 [any number, height, width, 3]
"""

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from etils import epath

from cover_jax.predict import flags, formats
from cover_jax.published import flags as source_flags
from data_pipelines import command_line, files
from data_pipelines.command_line import UsageError

if TYPE_CHECKING:
    from cover_jax.predict.predictor import HeadPredictions, Predictor


def find_files(paths: Sequence[str]) -> list[str]:
    """The paths, with each folder replaced by all its files at any depth, without hidden files and duplicates."""
    return list(dict.fromkeys(path for given in paths for path in _expand(given)))


def _expand(given: str) -> list[str]:
    folder = epath.Path(given)
    return [os.fspath(folder / path) for path in files.walk(folder)] if folder.is_dir() else [given]


def _predict_all(predictor: "Predictor", paths: list[str], batch_size: int) -> tuple[dict[str, "HeadPredictions"], int]:
    """Predictions per readable path, and the number of unreadable paths, which are reported immediately."""
    from tqdm import tqdm

    predictions, num_bad = {}, 0
    with tqdm(predictor.many(paths, min(batch_size, len(paths))), "predicting", len(paths), unit="file") as bar:
        for path, outcome in bar:
            if isinstance(outcome, Exception):
                num_bad += 1
                bar.write(f"{path}: {type(outcome).__name__}: {outcome}", file=sys.stderr)
            else:
                predictions[path] = outcome
    return predictions, num_bad


@command_line.command(ValueError)
def main(arguments: list[str]) -> None:
    """Runs the command."""
    args, storage = flags.parse(__doc__, arguments)
    paths = find_files(args.paths)
    if not paths:
        raise UsageError(f"no files in {', '.join(args.paths)}")
    if args.explain and len(paths) > 1:
        raise UsageError(f"--explain={args.explain} needs one file, not {len(paths)}")
    from cover_jax.predict.predictor import load_predictor  # JAX loads slowly: check the arguments first

    options = source_flags.source_options(args)
    predictor = load_predictor(args.workdir, args.head, args.step, options=options, **storage)
    said = "\n  ".join(predictor.notes) or f"step {predictor.step} of {args.workdir}"
    print(said, file=sys.stderr)
    predictions, num_bad = _predict_all(predictor, paths, args.batch_size)
    rows = formats.to_rows(predictions, args.top)
    print(formats.FORMATS[args.format](rows))
    command_line.write_json(args.json, json.loads(formats.as_json(rows)))
    if args.explain and predictions:
        _explain(predictor, paths[0], args.explain)
    if num_bad:
        sys.exit(f"{num_bad} of {len(paths)} files could not be read")


def _explain(predictor: "Predictor", path: str, out: str) -> None:
    try:
        predictor.explain(path, out)
    except (ValueError, OSError) as error:
        raise UsageError(f"--explain={out}: {command_line.one_line(error)}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
