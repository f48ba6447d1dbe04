"""Features of a list of clips, batch after batch, on this host's devices."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from cover_jax.checkpoint import fingerprint, metadata
from cover_jax.config import keys, schema
from cover_jax.evaluation import features
from cover_jax.features import clips, parts
from cover_jax.parallel import compilation, sharding
from cover_jax.predict import predictor, read_clips
from cover_jax.training import setup

# B batch, D width

_ALL_LOCAL = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})


def about(
    trained: metadata.TrainedModel, workdir: str, pool: str, view: read_clips.View, source: clips.Source
) -> dict[str, Any]:
    """What the features depend on; it is kept with them."""
    settings = keys.that_change(schema.Model, keys.Changes.SHAPE, keys.Changes.FUNCTION, keys.Changes.ROUNDING)
    of_heads = ("head",)  # which no feature depends on
    return {
        "model": workdir, "step": trained.step, "weights": _hash(trained.params["backbone"]), "pool": pool,
        "settings": {name: trained.config.model[name] for name in settings if name not in of_heads},
        "view": view._asdict(), "clips": source.identity,
    }  # fmt: skip


def _hash(params: object) -> str:
    """Of all values of the backbone: another run at the same path has another one."""
    leaves = fingerprint.as_json(fingerprint.fingerprint_host_tree(params))
    return hashlib.sha256(json.dumps(sorted(leaves.items())).encode()).hexdigest()


class Extractor:
    """Computes features on all devices of this host.

    Args:
        trained: the model.
        dataset: as which clips are seen.
        view: the same, of clips.
        pool: one of `features.POOLS`.
        batch_size: clips per batch; rounded up to a multiple of the devices.
    """

    def __init__(
        self, trained: metadata.TrainedModel, dataset: ConfigDict, view: read_clips.View, pool: str, batch_size: int
    ):
        self._mesh: Mesh = sharding.make_mesh(_ALL_LOCAL, jax.local_devices())
        self._view = view
        self.batch_size = -(-batch_size // len(jax.local_devices())) * len(jax.local_devices())
        model = setup.make_model(trained.config.model, {}, self._mesh)
        step = features.make_features(model, trained.config.model, dataset, pool)
        replicated = sharding.replicated(self._mesh)
        self._step = compilation.jit(step, mesh=self._mesh, out_shardings=replicated)
        self._params = jax.device_put({"backbone": trained.params["backbone"]}, replicated)

    def __call__(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """Features [B, D] of at most `batch_size` clips. A smaller batch is padded."""
        batch = read_clips.to_batch(frames, self._view, self.batch_size)
        on_device = jax.device_put(batch, sharding.batch_sharding(self._mesh))
        return np.asarray(jax.device_get(self._step(self._params, on_device)))[: len(frames)]


def write_parts(run: Extractor, source: clips.Source, job: parts.Job, missing: Sequence[range]) -> None:
    """Computes and writes the parts of a job that are missing, with the error of each clip that cannot be read."""
    with tqdm(desc="features", total=sum(map(len, missing)), unit="clip") as bar:
        for part in missing:
            job.write(part, _rows(run, source, part, bar))


def _rows(run: Extractor, source: clips.Source, part: range, bar: Any) -> Iterator[parts.Row]:
    batches = [list(part[start : start + run.batch_size]) for start in range(0, len(part), run.batch_size)]
    for batch in predictor.read_ahead(source.read, batches):
        read = [outcome.frames for _, outcome in batch if isinstance(outcome, clips.Clip)]
        found = iter(run(read)) if read else iter(())
        for index, outcome in batch:
            bar.update()
            if isinstance(outcome, clips.Clip):
                known = outcome.label, outcome.class_name, outcome.start_s, outcome.end_s
                yield parts.Row(outcome.path, *known, next(found), "")
            else:
                error = f"{type(outcome).__name__}: {outcome}"
                yield parts.Row(source.name(index), clips.UNKNOWN, "", 0.0, 0.0, None, error)
