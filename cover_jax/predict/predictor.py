"""Predictions of one or several heads for clips and images, from paths or arrays.

predictor = predict.load("/tmp/cover_demo", heads=["motion"])
by_path = predictor("clip.mp4")["motion"].top(5)
by_array = predictor(frames, fps=25.0)["motion"].top(5)  # uint8 [any number, height, width, 3]
"""

import collections
import concurrent.futures
import dataclasses
import os
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from einops import rearrange
from etils import epath
from ml_collections import ConfigDict

from cover_jax.checkpoint import metadata
from cover_jax.evaluation import eval_step
from cover_jax.models import variants
from cover_jax.parallel import compilation
from cover_jax.predict import explain, read_clips
from cover_jax.preprocess import crop, model_input
from cover_jax.published import load
from cover_jax.tasks import registry
from cover_jax.training import setup
from data_pipelines import escaping, files
from data_pipelines.prepare import worker_pool


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction of one head for one clip.

    Attributes:
        class_names: in the order of the labels.
        probabilities: float32 [C], the mean over the views.
    """

    class_names: Sequence[str]
    probabilities: np.ndarray

    def top(self, k: int) -> list[tuple[str, float]]:
        """The k most probable classes (all if there are fewer) with their probabilities, the most probable first."""
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return [(self.class_names[label], float(self.probabilities[label])) for label in order]


_Item = TypeVar("_Item")
_Read = TypeVar("_Read")
HeadPredictions = dict[str, Prediction]  # head -> its prediction; DATASET/HEAD if a dataset has several


def load_predictor(
    workdir: str,
    heads: Sequence[str] = (),
    step: str = "newest",
    *,
    options: Mapping[str, Any] = types.MappingProxyType({}),
    **storage: Any,
) -> "Predictor":
    """Loads a trained model for prediction; see `Predictor`.

    Args:
        workdir, step: of a run; or a published model: `published.load.load` has the forms.
        heads: as in `Predictor`.
        options: further arguments of `published.load.load`, such as `sample_fps`.
        **storage: as in `Predictor`.

    Raises:
        FileNotFoundError: there is no such checkpoint or model.
        ValueError: the model has no such head, or cannot be read.
    """
    return Predictor(load.load(workdir, step, **options), heads, **storage)


class Predictor:
    """Predicts with one or several heads, on JAX's default device. Heads with the same view share the backbone's work.

    Attributes:
        step: of the checkpoint; 0 of a published model.
        notes: of a published model: what its files say, and what is assumed.
        views: head -> its view of a clip.
    """

    def __init__(self, trained: metadata.TrainedModel, heads: Sequence[str] = (), **storage):
        """Creates a predictor from a model in memory.

        Args:
            trained: the model.
            heads: names of the heads; empty: all.
            **storage: `short_side_px` and `fps` of the prepared datasets, if the checkpoint does not know them, or to
                read files in another way.

        Raises:
            ValueError: there is no such head.
        """
        for head in heads:
            if head not in trained.class_names:
                raise ValueError(f"head {head!r}: must be one of {', '.join(trained.class_names)}")
        self.step, self.notes = trained.step, trained.notes
        self._class_names = {head: trained.class_names[head] for head in heads or trained.class_names}
        self.views = {
            head: read_clips.view_of_dataset(trained.dataset(head), trained.storage(head) | storage)
            for head in self._class_names or trained.config.datasets  # a backbone alone has views, too
        }
        of_heads = {head: trained.params["heads"][head] for head in self._class_names}
        params = {"backbone": trained.params["backbone"], "heads": of_heads}
        self._params, self._config = jax.device_put(params), trained.config.model
        self._tasks = {head: registry.of(trained.dataset(head)) for head in self._class_names}
        self._specs = {head: trained.head_spec(head) for head in self._class_names}
        model = setup.make_model(trained.config.model, self._class_names, head_specs=self._specs)
        self._steps = {}  # view -> (params, batch) -> probabilities of its heads
        for view in dict.fromkeys(self.views[head] for head in self._class_names):
            heads = [head for head in self._class_names if self.views[head] == view]
            dataset = trained.dataset(heads[0])  # all of these have the same view
            tasks = {head: self._tasks[head] for head in heads}
            self._steps[view] = compilation.jit(
                eval_step.make_probabilities(model, trained.config.model, dataset, tasks)
            )

    def __call__(self, clip: str | os.PathLike | np.ndarray, fps: float = 0.0) -> HeadPredictions:
        """The prediction of each head for one clip.

        Args:
            clip: path of a video or an image, local or gs://; or all its frames, uint8 [N, h, w, 3] (an image is one
                frame). The frames of a file are first resized like those of the dataset. An array is used unchanged.
            fps: frame rate of an array. Only heads whose datasets are sampled by time (sample_fps) need it.

        Raises:
            ValueError: the array has another type or shape, or `fps` is missing.
            Exception: the decoder's error for a file that it cannot read.
        """
        frames = self.sample(clip, fps) if isinstance(clip, np.ndarray) else self.read(os.fspath(clip))
        return self._predict([frames], 1)[0]

    def many(self, paths: Iterable[str], batch_size: int = 8) -> Iterator[tuple[str, HeadPredictions | Exception]]:
        """Yields each path with the heads' predictions, or with the error of reading it; in order, in batches."""
        for batch in read_ahead(self.read, worker_pool.cut(paths, batch_size)):
            readable = [frames for _, frames in batch if isinstance(frames, dict)]
            predictions = iter(self._predict(readable, batch_size))
            yield from ((path, next(predictions) if isinstance(frames, dict) else frames) for path, frames in batch)

    def explain(self, clip: str | os.PathLike | np.ndarray, out: str, fps: float = 0.0) -> None:
        """Writes a video of where and when the model looks, see `explain.draw`: all temporal views, centre crop.

        The frames have the clip's own size, at most 1080 px at the shorter side, with the most probable class of each
        head, its probability, and the time of the frame in the clip.

        Args:
            clip, fps: as in `__call__`.
            out: the video's path; its extension selects the format.

        Raises:
            ValueError: the heads have different views, or read patch tokens; or as in `__call__`.
        """
        if of_tokens := [head for head, spec in self._specs.items() if spec.reads == "tokens"]:
            raise ValueError(
                f"head {', '.join(of_tokens)}: reads all patch tokens, and attention rollout follows only what CLS "
                "reads; choose another head"
            )
        if len(self._steps) > 1:
            raise ValueError(f"heads {', '.join(self.views)} see different frames: choose one to explain")
        (view,) = self._steps
        if isinstance(clip, np.ndarray):
            frames, shown = self.sample(clip, fps), read_clips.shown_frames(clip, fps, view)
        else:
            with files.local(epath.Path(clip)) as local:
                frames, shown = self.read(local), read_clips.read_shown_frames(local, view)
        batch = read_clips.to_batch([frames[view]], view, 1)
        shares_BThw = np.asarray(compilation.jit(make_look(self._config, view))(self._params["backbone"], batch))
        captions = _captions(self._predict([frames], 1)[0], shown.times_s, view)
        box = crop.square_box(np.array(shown.frames.shape[1:3]), 0.5, view.crop_share)
        drawn = []
        for i, shares_Thw in enumerate(shares_BThw):
            part = slice(i * view.num_frames, (i + 1) * view.num_frames)
            drawn.append(explain.draw(shown.frames[part], shares_Thw, box, captions[part]))
        explain.write(out, np.concatenate(drawn))

    def read(self, path: str) -> read_clips.Frames:
        """The frames of a file that evaluation would see if the file were part of the prepared dataset."""
        found = {}
        with files.local(epath.Path(path)) as local:
            for storage in {view[:2] for view in self.views.values()}:
                found[storage] = read_clips.read_file(local, *storage)
        return {
            view: read_clips.sample_frames(found[view[:2]].frames, found[view[:2]].fps, view)
            for view in dict.fromkeys(self.views.values())
        }

    def sample(self, frames_Nhw3: np.ndarray, fps: float = 0.0) -> read_clips.Frames:
        """The same for a clip in memory; arguments and errors as in `__call__`."""
        shape, dtype = frames_Nhw3.shape, frames_Nhw3.dtype
        if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or not all(shape):
            raise ValueError(
                f"frames are {dtype} {list(shape)}: must be uint8 [frames, height, width, 3]; frames[None] of an image"
            )
        for head, view in self.views.items():
            if view.sample_fps and not fps and len(frames_Nhw3) > 1:
                raise ValueError(f"head {head!r} takes {view.sample_fps} frames per second: give the frames' own fps")
        views = dict.fromkeys(self.views.values())
        return {view: read_clips.sample_frames(frames_Nhw3, fps, view) for view in views}

    def _predict(self, clips: Sequence[read_clips.Frames], batch_size: int) -> list[HeadPredictions]:
        """Predicts up to batch_size clips at once. Smaller batches are padded, so that each view is compiled once."""
        if not clips:
            return []
        probabilities: dict[str, jax.Array] = {}
        for view, step in self._steps.items():
            probabilities |= step(self._params, read_clips.to_batch([clip[view] for clip in clips], view, batch_size))
        on_host: dict[str, np.ndarray] = jax.device_get(probabilities)
        return [
            {
                key: prediction
                for head, names in self._class_names.items()
                for key, prediction in self._of_parts(head, Prediction(names, on_host[head][i])).items()
            }
            for i in range(len(clips))
        ]

    def _of_parts(self, head: str, whole: Prediction) -> HeadPredictions:
        """A prediction of all classes of a head, part by part (`Task.parts`)."""
        return {
            f"{head}/{part.name}" if part.name else head: Prediction(
                whole.class_names[part.columns], whole.probabilities[part.columns]
            )
            for part in self._tasks[head].parts(len(whole.class_names))
        }


def make_look(config: ConfigDict, view: read_clips.View):
    """(backbone, batch) -> the shares in CLS of each patch of the central views, [K, T, h, w]."""
    normalization = model_input.Normalization(config.pixel_mean, config.pixel_std, view.standardize)

    def look(backbone, batch):
        frames_BTHWC = model_input.evaluate(
            batch,
            size_px=config.size_px,
            clips=view.clips,
            crops=1,
            normalization=normalization,
            crop_share=view.crop_share,
        )
        _, seen = explain.trace(backbone, config, frames_BTHWC)
        rows = config.size_px // variants.parse(config.variant).patch_px
        return rearrange(explain.rollout(seen, config.registers), "b t (h w) -> b t h w", h=rows)

    return look


def _captions(predictions: HeadPredictions, times_s: np.ndarray | None, view: read_clips.View) -> list[tuple[str, ...]]:
    """Lines per frame of all temporal views: each head's class and probability, and the frame's time."""
    of_heads = []
    for head, prediction in predictions.items():
        ((name, probability),) = prediction.top(1)
        before = f"{head}: " if len(predictions) > 1 else ""
        of_heads.append(f"{before}{escaping.one_line(name)} {probability:.1%}")
    if times_s is None:
        return [tuple(of_heads)] * (view.clips * view.num_frames)
    lines = []
    for i, time_s in enumerate(times_s):
        part = f", part {i // view.num_frames + 1} of {view.clips}" if view.clips > 1 else ""
        lines.append((*of_heads, f"{time_s:.2f} s{part}"))
    return lines


def read_ahead(
    read: Callable[[_Item], _Read], batches: Iterable[list[_Item]]
) -> Iterator[list[tuple[_Item, _Read | Exception]]]:
    """Yields batches of (item, result of `read`, or its error). Threads read one batch ahead."""

    def attempt(path: _Item) -> tuple[_Item, _Read | Exception]:
        try:
            return path, read(path)
        except Exception as error:  # decoders raise errors of any type; they are reported with the file
            return path, error

    waiting: collections.deque[list[concurrent.futures.Future]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for batch in batches:
            waiting.append([pool.submit(attempt, path) for path in batch])
            if len(waiting) == 2:
                yield [future.result() for future in waiting.popleft()]
        for futures in waiting:
            yield [future.result() for future in futures]
