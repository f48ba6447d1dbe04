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
import collections
import concurrent.futures
import csv
import dataclasses
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from einops import rearrange
from etils import epath
from ml_collections import ConfigDict
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from cover_jax import checkpoint, compilation, explain, preprocess, progress
from cover_jax.models import cover, variants
from data_pipelines import catalog, decode, sampling
from data_pipelines.builders import base, chunks, files, media, source_file

# B clips of a batch, K temporal views, T frames of a view, H, W canvas, C colours or classes; N frames of a clip,
# h, w its own height and width

MOVING_IMAGES = ("GIF", "PNG", "WEBP")  # of Pillow's names: formats whose pictures in one file are a clip
STORAGE = ("short_side_px", "fps")  # of the options of preparing: those that decide what a stored frame is
DEFAULT_STORAGE = {name: base.VideoFiles.OPTIONS[name][0] for name in STORAGE}


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What one head says of one clip.

    Attributes:
        class_names: in the order of the labels.
        probabilities: float32 [C], the mean over the views.
    """

    class_names: Sequence[str]
    probabilities: np.ndarray

    def top(self, k: int) -> list[tuple[str, float]]:
        """The k likeliest classes, or all if there are fewer, with their probabilities, the likeliest first."""
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return [(self.class_names[label], float(self.probabilities[label])) for label in order]


class View(NamedTuple):
    """How a dataset's clips are stored and evaluated; heads of equal views see the same frames.

    Attributes:
        short_side_px: of the stored frames.
        fps: frames stored a second.
        num_frames, sample_fps, canvas_px, standardize, clips, crops: num_frames to eval_crops of `dataset()` in
            configs/common.py.
    """

    short_side_px: int
    fps: float
    num_frames: int
    sample_fps: float
    canvas_px: tuple[int, int]
    standardize: bool
    clips: int
    crops: int


Predictions = dict[str, Prediction]  # head -> what it says
Frames = dict[View, np.ndarray]  # view -> uint8 [K * T, h, w, 3], clip after clip, each at most as large as the canvas


def load(workdir: str, heads: Sequence[str] = (), step: str = "newest", **storage) -> "Predictor":
    """A checkpoint of a run, local or gs://, ready to predict; see `Predictor`.

    Args:
        workdir, step: as in `checkpoint.load_trained`.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it has no such head.
    """
    return Predictor(checkpoint.load_trained(workdir, step), heads, **storage)


class Predictor:
    """Predicts with one or several heads, on JAX's default device. Heads that share their view share the backbone.

    Attributes:
        step: of the checkpoint.
        views: head -> how it sees a clip.
    """

    def __init__(self, trained: checkpoint.Trained, heads: Sequence[str] = (), **storage):
        """
        Args:
            trained: the model.
            heads: their names; none: all.
            **storage: `short_side_px` and `fps` that the datasets were prepared with, where it was not by default.

        Raises:
            ValueError: there is no such head.
        """
        for head in heads:
            if head not in trained.class_names:
                raise ValueError(f"head {head!r}: must be one of {', '.join(trained.class_names)}")
        self.step = trained.step
        self._class_names = {head: trained.class_names[head] for head in heads or trained.class_names}
        self.views = {head: _view(trained.dataset(head), storage) for head in self._class_names}
        params = {"backbone": trained.params["backbone"], "heads": {h: trained.params["heads"][h] for h in self.views}}
        self._params, self._config = jax.device_put(params), trained.config.model
        model = cover.functional(trained.config.model, {head: len(names) for head, names in self._class_names.items()})
        self._steps = {
            view: compilation.jit(_make_step(model, trained.config.model, view, self._heads_of(view)))
            for view in dict.fromkeys(self.views.values())
        }

    def __call__(self, clip: str | os.PathLike | np.ndarray, fps: float = 0.0) -> Predictions:
        """What each head says of one clip.

        Args:
            clip: path of a video or an image, local or gs://; or its frames, uint8 [N, h, w, 3], all of them, an image
                being one frame. They are taken as they are: those of a file are first shrunk as its dataset's are.
            fps: of an array's frames; only heads whose datasets are sampled by time (sample_fps) need it.

        Raises:
            ValueError: the array is of another type or shape, or needs a rate.
            Exception: whatever a decoder makes of a file that it cannot read.
        """
        frames = self.sample(clip, fps) if isinstance(clip, np.ndarray) else self.read(os.fspath(clip))
        return self._predict([frames], 1)[0]

    def many(self, paths: Iterable[str], batch_size: int = 8) -> Iterator[tuple[str, Predictions | Exception]]:
        """Each path with what the heads say of it, or with why it cannot be read; in order, several at a time."""
        for batch in _read_ahead(self.read, chunks.cut(paths, batch_size)):
            said = iter(self._predict([frames for _, frames in batch if isinstance(frames, dict)], batch_size))
            yield from ((path, next(said) if isinstance(frames, dict) else frames) for path, frames in batch)

    def explain(self, clip: Frames, out: str) -> None:
        """Writes a video of where and when the model looks, see `explain.draw`: view after view in time, the centre.

        Args:
            clip: from `read` or `sample`.
            out: the video's path; its ending says the format.

        Raises:
            ValueError: the heads see clips differently.
        """
        if len(clip) > 1:
            raise ValueError(f"heads {', '.join(self.views)} see other frames: choose one to explain")
        ((view, frames),) = clip.items()
        batch = to_batch([frames], view, 1)
        levels_BTHWC, shares_BThw = compilation.jit(_make_look(self._config, view))(self._params["backbone"], batch)
        pictures = np.clip(np.round(np.asarray(levels_BTHWC)), 0, 255).astype(np.uint8)
        drawn = [explain.draw(*pair) for pair in zip(pictures, np.asarray(shares_BThw), strict=True)]
        explain.write(out, np.concatenate(drawn))

    def read(self, path: str) -> Frames:
        """The frames of a file that evaluation would see, had it been prepared."""
        found = {}
        with files.local(epath.Path(path)) as local:
            for storage in {view[:2] for view in self._steps}:
                found[storage] = _read_file(local, *storage)
        return {view: _sampled(found[view[:2]].frames, found[view[:2]].fps, view) for view in self._steps}

    def sample(self, frames_Nhw3: np.ndarray, fps: float = 0.0) -> Frames:
        """The same of a clip in memory; arguments and errors as in `__call__`."""
        shape, dtype = frames_Nhw3.shape, frames_Nhw3.dtype
        if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or not all(shape):
            raise ValueError(
                f"frames are {dtype} {list(shape)}: must be uint8 [frames, height, width, 3]; frames[None] of an image"
            )
        for head, view in self.views.items():
            if view.sample_fps and not fps and len(frames_Nhw3) > 1:
                raise ValueError(f"head {head!r} takes {view.sample_fps} frames a second: say the frames' own fps")
        return {view: _sampled(frames_Nhw3, fps, view) for view in self._steps}

    def _heads_of(self, view: View) -> list[str]:
        return [head for head in self.views if self.views[head] == view]

    def _predict(self, clips: Sequence[Frames], batch_size: int) -> list[Predictions]:
        """Up to batch_size clips at once; fewer are filled up, so that each view is compiled once."""
        if not clips:
            return []
        probabilities = {}
        for view, step in self._steps.items():
            probabilities |= step(self._params, to_batch([clip[view] for clip in clips], view, batch_size))
        probabilities = jax.device_get(probabilities)
        return [
            {head: Prediction(names, probabilities[head][i]) for head, names in self._class_names.items()}
            for i in range(len(clips))
        ]


def to_batch(clips: Sequence[np.ndarray], view: View, batch_size: int) -> dict[str, np.ndarray]:
    """Sampled frames as `preprocess.evaluate` wants them: in the top left corner of the canvas, zeros around them.

    The canvas is as large as the largest clip if that does not fit the view's; zeros fill the batch up as well.
    """
    height, width = np.max([view.canvas_px, *(clip.shape[1:3] for clip in clips)], axis=0)
    frames = np.zeros((batch_size, view.clips * view.num_frames, height, width, 3), np.uint8)
    size_px = np.zeros((batch_size, 2), np.int32)
    for i, clip in enumerate(clips):
        size_px[i] = clip.shape[1:3]
        frames[i, :, : clip.shape[1], : clip.shape[2]] = clip
    return {"frames": frames, "size_px": size_px}


def _view(dataset: ConfigDict, storage: dict) -> View:
    builder = catalog.builder_class(dataset.builder)
    own = getattr(builder, "OPTIONS", {})
    options = {name: own[name][0] for name in STORAGE if name in own}
    if builder is None:  # one of TFDS's own, which store pictures as they are
        options["short_side_px"] = source_file.MAX_PIXELS
    return View(
        **DEFAULT_STORAGE | options | storage,
        num_frames=dataset.num_frames,
        sample_fps=dataset.sample_fps,
        canvas_px=tuple(dataset.canvas_px),
        standardize=dataset.standardize,
        clips=dataset.eval_clips,
        crops=dataset.eval_crops,
    )


def _make_step(model: cover.Functional, config: ConfigDict, view: View, heads: Sequence[str]):
    """(params, batch) -> {head: float32 [B, C]}, probabilities averaged over the views as evaluation does."""

    def step(params, batch):
        views_BTHWC = preprocess.evaluate(
            batch,
            size_px=config.size_px,
            clips=view.clips,
            crops=view.crops,
            mean=config.pixel_mean,
            std=config.pixel_std,
            standardize=view.standardize,
        )
        # Written as if each head had a backbone of its own; the compiler finds that it is the same one.
        probabilities = {head: jax.nn.softmax(model.apply(params, views_BTHWC, head)) for head in heads}
        views = view.clips * view.crops
        return jax.tree.map(lambda x: jnp.mean(rearrange(x, "(b v) c -> b v c", v=views), axis=1), probabilities)

    return step


def _make_look(config: ConfigDict, view: View):
    """(backbone, batch) -> central views [K, T, H, W, 3] of levels 0..255, and patches' shares in CLS [K, T, h, w]."""

    def look(backbone, batch):
        levels_BTHWC = preprocess.evaluate(
            batch, size_px=config.size_px, clips=view.clips, crops=1, mean=(0.0,) * 3, std=(1 / 255,) * 3
        )
        frames_BTHWC = preprocess.normalize(levels_BTHWC, config.pixel_mean, config.pixel_std, view.standardize)
        _, seen = explain.trace(backbone, config, frames_BTHWC)
        rows = config.size_px // variants.parse(config.variant).patch_px
        return levels_BTHWC, rearrange(explain.rollout(seen), "b t (h w) -> b t h w", h=rows)

    return look


def _read_file(path: str, short_side_px: int, fps: float) -> media.Media:
    return media.read_image(path, short_side_px) if _is_still(path) else media.read_video(path, short_side_px, fps)


def _is_still(path: str) -> bool:
    """Whether a file is an image and not a clip, by its content."""
    try:
        with source_file.open_regular(path) as file, Image.open(file) as image:
            is_image = Image.MIME.get(image.format, "").startswith("image/")  # Pillow also knows MPEG, by name only
            return is_image and not (image.format in MOVING_IMAGES and image.is_animated)
    except UnidentifiedImageError:
        return False


def _sampled(frames: Sequence[bytes] | np.ndarray, fps: float, view: View) -> np.ndarray:
    """The frames of all temporal views, uint8 [K * T, h, w, 3], of JPEGs or of an array [N, h, w, 3]."""
    indices = sampling.eval_indices(len(frames), fps, view.num_frames, view.sample_fps, view.clips)
    if isinstance(frames, np.ndarray):
        return frames[np.asarray(indices)]
    return np.asarray(decode.decode_frames([frames[index] for index in np.asarray(indices)], view.canvas_px))


def _read_ahead(read, batches: Iterable[list[str]]) -> Iterator[list[tuple[str, Frames | Exception]]]:
    """Batches of paths with what `read` makes of them, in threads, one batch ahead of the one that is worked on."""

    def attempt(path: str):
        try:
            return path, read(path)
        except Exception as error:  # decoders raise whatever they meet: it is reported with its file
            return path, error

    waiting = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for batch in batches:
            waiting.append([pool.submit(attempt, path) for path in batch])
            if len(waiting) == 2:
                yield [future.result() for future in waiting.popleft()]
        for futures in waiting:
            yield [future.result() for future in futures]


def find(paths: Sequence[str]) -> list[str]:
    """The paths, with all files of each folder, at any depth, in its place; hidden ones aside, and none twice."""
    return list(dict.fromkeys(path for given in paths for path in _expand(given)))


def _expand(given: str) -> list[str]:
    folder = epath.Path(given)
    return [os.fspath(folder / path) for path in files.walk(folder)] if folder.is_dir() else [given]


def to_rows(predictions: dict[str, Predictions], top: int) -> list[dict[str, str | int | float]]:
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
    return progress.table("", shown).lstrip()


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
    for name in STORAGE:
        default, help_text = base.VideoFiles.OPTIONS[name]
        storage.add_argument(f"--{name}", type=type(default), default=argparse.SUPPRESS, help=help_text)
    return parser


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict]:
    """The flags, and those of them that say how datasets were prepared."""
    parser = _parser()
    args = parser.parse_args(arguments)
    storage = {name: vars(args)[name] for name in DEFAULT_STORAGE if name in args}
    for name in ("top", "batch_size", *storage):
        if vars(args)[name] <= 0:
            parser.error(f"--{name}={vars(args)[name]}: must be positive")
    return args, storage


def _predict_all(predictor: Predictor, paths: list[str], batch_size: int) -> tuple[dict[str, Predictions], int]:
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
    paths = find(args.paths)
    if not paths:
        sys.exit(f"error: no files in {', '.join(args.paths)}")
    if args.explain and len(paths) > 1:
        sys.exit(f"error: --explain={args.explain} is of one file, not of {len(paths)}")
    try:
        predictor = load(args.checkpoint, [head for head in args.head.split(",") if head], args.step, **storage)
    except checkpoint.CheckpointDamagedError as error:
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
