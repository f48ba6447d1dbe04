"""A trained model in Python: `cover_jax.load` gives one that predicts, computes features, and shows attention."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from cover_jax.checkpoint import metadata
from cover_jax.evaluation import features
from cover_jax.parallel import compilation
from cover_jax.predict import read_clips
from cover_jax.predict.predictor import HeadPredictions, Predictor, make_look
from cover_jax.published import load as loading
from cover_jax.training import setup

# B clips, V views of a clip, K temporal views, T frames, H height, W width, C colours, D width; h, w patches of a
# column and of a row

Clip = str | os.PathLike[str] | np.ndarray  # a path, local or gs://; or all frames, uint8 [N, height, width, 3]


def load(source: str, step: str = "newest", *, heads: Sequence[str] = (), **options: Any) -> "Model":
    """Loads a trained model.

    Args:
        source: WORKDIR[@best|@STEP] of a run, local or gs://; or a published model: a folder, a file of weights, or
            hf://ORG/REPO[@REVISION][/FILE].
        step: checkpoint of a run: "newest", "best" or its step.
        heads: names of the heads that predict; empty: all.
        **options: `sample_fps`, `eval_clips`, `eval_crops`: which frames and views are seen, in place of the model's
            own; `class_names`: file with a published model's class names; `backbone_only=True`: it needs no classifier.

    Raises:
        FileNotFoundError: there is no such checkpoint or file.
        ValueError: the model cannot be read, is not complete, or has no such head.
    """
    return Model(loading.load(source, step, **options), heads)


class Model:
    """A trained model on JAX's default device. A program is compiled per view, at its first use.

    Attributes:
        class_names: head -> its classes, in order.
        notes: of a published model: what its files say, and what is assumed.
        trained: config, parameters and metadata.
    """

    def __init__(self, trained: metadata.TrainedModel, heads: Sequence[str] = ()):
        self.trained, self.notes, self._config = trained, trained.notes, trained.config.model
        self.class_names = {head: trained.class_names[head] for head in heads or trained.class_names}
        self._predictor = Predictor(trained, heads)

    def predict(self, clips: Sequence[Clip], fps: float = 0.0) -> list[HeadPredictions]:
        """The prediction of each head for each clip: `model.predict(["a.mp4"])[0]["motion"].top(5)`.

        Args:
            clips: paths of videos or images; or arrays with all frames of a clip, uint8 [N, height, width, 3].
            fps: frame rate of the arrays. Only models that are sampled by time (sample_fps) need it.

        Raises:
            ValueError: an array has another type or shape, or `fps` is missing.
            Exception: the decoder's error for a file that it cannot read.
        """
        return [self._predictor(clip, fps) for clip in _listed(clips)]

    def features(self, clips: Sequence[Clip], fps: float = 0.0, pool: str = "cls") -> np.ndarray:
        """Features, float32 [clips, D], the mean over all views; of pool "tokens" [clips, T, N, D], of the only view.

        Args:
            clips, fps: as in `predict`.
            pool: "cls", the CLS features that linear heads read; "patches", the mean of all normalised patch tokens; or
                "tokens", these tokens, which attentive heads read.

        Raises:
            ValueError: as `predict`; or there is no such pool, the heads have different views, or a clip has several
                views and the pool is "tokens".
        """
        view, step = self._one_view(), self._feature_step(pool)
        batches = ([self._frames(clip, fps)[view]] for clip in _listed(clips))
        rows = [step(self._params, read_clips.to_batch(batch, view, 1))[0] for batch in batches]
        return np.stack([np.asarray(row) for row in rows])

    def attention(self, clip: Clip, fps: float = 0.0) -> np.ndarray:
        """Where and when the model looks: the share of each patch in CLS, float32 [K, T, h, w].

        Attention rollout (`cover_jax.predict.explain`) of all temporal views, centre crop. Arguments and errors as in
        `features`, for one clip.
        """
        view = self._one_view()
        batch = read_clips.to_batch([self._frames(clip, fps)[view]], view, 1)
        return np.asarray(self._attention_step(self._params["backbone"], batch))

    def _frames(self, clip: Clip, fps: float) -> read_clips.Frames:
        if isinstance(clip, np.ndarray):
            return self._predictor.sample(clip, fps)
        return self._predictor.read(os.fspath(clip))

    def _one_view(self) -> read_clips.View:
        views = set(self._predictor.views.values())
        if len(views) > 1:
            raise ValueError(f"heads {', '.join(self._predictor.views)} see different frames: load(..., heads=[one])")
        return views.pop()

    @functools.cached_property
    def _params(self) -> dict[str, Any]:
        return jax.device_put({"backbone": self.trained.params["backbone"], "heads": {}})

    @functools.cache  # noqa: B019 - a model lives as long as its programs
    def _feature_step(self, pool: str) -> Callable[[dict[str, Any], dict[str, np.ndarray]], jax.Array]:
        model = setup.make_model(self._config, {})
        dataset = self.trained.dataset(next(iter(self._predictor.views)))
        step: Callable[..., jax.Array] = compilation.jit(features.make_features(model, self._config, dataset, pool))
        return step

    @functools.cached_property
    def _attention_step(self) -> Callable[[dict[str, Any], dict[str, np.ndarray]], jax.Array]:
        step: Callable[..., jax.Array] = compilation.jit(make_look(self._config, self._one_view()))
        return step


def _listed(clips: Sequence[Clip]) -> Sequence[Clip]:
    """The clips. One clip alone is refused: its frames, or the letters of its path, would be taken for clips."""
    if isinstance(clips, str | os.PathLike | np.ndarray):
        raise ValueError("clips must be a list of paths or arrays: [clip] for one clip")
    return clips
