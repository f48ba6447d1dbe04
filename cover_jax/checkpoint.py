"""Orbax checkpoints of a run: its state, its class names, its config and its data. The only module that imports orbax.

    WORKDIR/checkpoints/STEP/state     the TrainState, sharded, written while training goes on
    WORKDIR/checkpoints/STEP/meta      JSON: what the state means (see `make_meta`)
    WORKDIR/checkpoints/STEP/metrics   JSON: accuracies, and of how many examples; empty where it was not evaluated
"""

import dataclasses
import fnmatch
import importlib.metadata
import importlib.util
import json
import math
import sys
import types
from collections.abc import Mapping

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy

from configs import common
from cover_jax import config as config_lib

PACKAGES = (
    "jax", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "ml_collections", "clu", "einops", "numpy",
)  # fmt: skip

# Config keys that say where in the input a step stands, or which shapes the state has: to continue with another value
# would silently be another run.
_FIXED_KEYS = (
    "seed", "plan", "model.variant", "model.head", "model.size_px", "model.num_frames", "optimizer.name",
    "datasets.*.builder", "datasets.*.train_split", "datasets.*.weight", "datasets.*.batch_size", "datasets.*.repeats",
)  # fmt: skip


class CheckpointMismatchError(config_lib.ConfigError):
    """The checkpoint belongs to a run with other heads, data or input order. The message has a line for each."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """A head that a run took over from another and does not train.

    Attributes:
        class_names: in order.
        dataset: what it was trained on, as `dataset()` in configs/common.py, in JSON's types.
    """

    class_names: tuple[str, ...]
    dataset: dict


NO_HEADS: Mapping[str, Kept] = types.MappingProxyType({})


def make_meta(
    config: ConfigDict, splits: dict, manifests: dict, leaks: list, kept: Mapping[str, Kept] = NO_HEADS
) -> dict:
    """What a checkpoint says of itself, as JSON: class names per head in order, data, config, versions.

    Args:
        config: the whole config.
        splits: dataset name -> its opened training split.
        manifests: dataset name -> what is there of what its source lists (`data_pipelines.manifest.summary`).
        leaks: what validation and training sets have in common (`data_pipelines.leaks.Leaks.summary`).
        kept: heads that stand beside those of the datasets.
    """
    return {
        "heads": {name: list(head.class_names) for name, head in [*splits.items(), *kept.items()]},
        "kept": {name: head.dataset for name, head in kept.items()},
        "data": {
            name: {
                "builder": split.builder,
                "examples": split.num_examples,
                "excluded": split.num_excluded,
                "fingerprint": split.fingerprint,
                "manifest": manifests[name],
            }
            for name, split in splits.items()
        },
        "leaks": leaks,
        "config": json.loads(config.to_json()),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """The Python and package versions that a run was made with."""
    found = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"python": sys.version.split()[0], **found}


def open_manager(workdir: str, keep: int, best_metric: str) -> ocp.CheckpointManager:
    """The checkpoints of a run: `keep` of the latest and `keep` of the best by `best_metric` stay."""

    def best_fn(metrics):
        # A step that was not evaluated is below all that were. Of several such the later ones rank higher: where there
        # are fewer than `keep` evaluated ones, those that fill up the best are among the latest anyhow.
        return metrics.get(best_metric, -math.inf)

    policies = [
        preservation_policy.LatestN(keep),
        preservation_policy.BestN(get_metric_fn=best_fn, n=keep, keep_checkpoints_without_metrics=False),
    ]
    options = ocp.CheckpointManagerOptions(
        best_fn=best_fn,
        preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
        cleanup_tmp_directories=True,  # what a killed process left half-written
    )
    return ocp.CheckpointManager(_folder(workdir), options=options)


def _folder(workdir: str) -> epath.Path:
    """Where a run's checkpoints stand: an absolute path, as orbax wants it, or a URL."""
    folder = epath.Path(workdir) / "checkpoints"
    if "://" not in str(workdir):
        return folder.resolve()
    if str(workdir).startswith("gs://") and importlib.util.find_spec("google.cloud.storage") is None:
        raise config_lib.ConfigError(f"{workdir}: checkpoints in a bucket need more packages: pip install -e '.[gcs]'")
    return folder  # resolved, it would become a local one


def save(manager: ocp.CheckpointManager, state, meta: dict, accuracies: dict[str, float] | None) -> None:
    """Starts saving the state under its step and returns; a step that is already saved is left as it is.

    Raises:
        Whatever the save before this one failed with.
    """
    step = int(state.step)
    if step in manager.all_steps():
        return
    items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
    manager.save(step, args=items, metrics=accuracies or {}, force=True)  # None: orbax would warn at every save


def read_meta(manager: ocp.CheckpointManager, step: int) -> dict:
    """What the checkpoint of `step` says of itself: `make_meta`, and "history" (cover_jax/history.py)."""
    return manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta


def restore(manager: ocp.CheckpointManager, step: int, state_like, meta: dict):
    """The state saved at `step`, each leaf with the shape and sharding of `state_like`; prints what the config changed.

    Raises:
        CheckpointMismatchError: the checkpoint is of another run (see `check_same_run`).
    """
    saved = read_meta(manager, step)
    where = f"{manager.directory}/{step}"
    changes = check_same_run(saved, meta, where)
    if jax.process_index() == 0 and changes:
        print("\n".join(f"changed since the checkpoint: {change}" for change in changes), flush=True)
    try:
        return manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(state_like))).state
    except ValueError as error:
        if not changes:
            raise
        # Some keys decide what the optimizer remembers: whether there is an average, a clipped norm, a frozen part.
        raise CheckpointMismatchError(
            "\n".join([f"{where} cannot be restored with what changed; go back to what the checkpoint has:", *changes])
        ) from error


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained model, without its run.

    Attributes:
        config: the whole config that it was trained with.
        class_names: head -> its classes, in order.
        params: of the whole model, on the host; their moving average where the run kept one.
        step: how many steps it was trained.
        meta: all that its checkpoint says of it (see `make_meta`).
        accuracies: of its evaluation, with DATASET/examples; {} where the step was not evaluated.
    """

    config: ConfigDict
    class_names: dict[str, list[str]]
    params: dict
    step: int
    meta: dict = dataclasses.field(default_factory=dict)
    accuracies: dict[str, float] = dataclasses.field(default_factory=dict)

    def dataset(self, head: str) -> ConfigDict:
        """What a head was trained on, as `dataset()` in configs/common.py."""
        if head not in self.meta.get("kept", {}):
            return self.config.datasets[head]
        dataset = common.dataset()  # keys that came after it have their defaults
        with dataset.ignore_type(), dataset.unlocked():
            dataset.update(self.meta["kept"][head])
        return dataset


def load_trained(workdir: str) -> Trained:
    """The model of a run's newest checkpoint; needs neither its data nor its devices.

    Raises:
        FileNotFoundError: there is no checkpoint.
    """
    step, meta, accuracies = newest(workdir)
    config = config_of(meta)
    params = _read_params(_folder(workdir) / str(step) / "state", config)
    return Trained(config, meta["heads"], params, step, meta, accuracies)


def newest(workdir: str) -> tuple[int, dict, dict[str, float]]:
    """A run's newest checkpoint: its step, what it says of itself (`make_meta`), and its accuracies if there are any.

    Raises:
        FileNotFoundError: there is no checkpoint.
    """
    folder = _folder(workdir)
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no checkpoints; is {workdir} the --workdir of a run?")
    with ocp.CheckpointManager(folder) as manager:
        step = manager.latest_step()
        if step is None:
            raise FileNotFoundError(f"{folder}: no checkpoint yet")
        return step, read_meta(manager, step), manager.metrics(step) or {}


def config_of(meta: dict) -> ConfigDict:
    """The config of a checkpoint; keys that came after it have their defaults."""
    config = common.get_config()
    with config.ignore_type(), config.unlocked():
        config.update(meta["config"])
    return config


def _read_params(folder: epath.Path, config: ConfigDict) -> dict:
    """Only the parameters of a saved state, as NumPy arrays."""
    which = "ema" if config.optimizer.ema_decay else "params"
    with ocp.PyTreeCheckpointer() as checkpointer:
        shapes = {which: checkpointer.metadata(folder).item_metadata.tree[which]}
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        args = ocp.args.PyTreeRestore(shapes, restore_args=restore_args, partial_restore=True)
        return checkpointer.restore(folder, args=args)[which]


def check_same_run(saved: dict, meta: dict, where: str) -> list[str]:
    """Refuses a checkpoint of another run; returns the changes of config that are allowed, one line each.

    Raises:
        CheckpointMismatchError: other heads, another class order, other data, or a config key that must stay.
    """
    errors = [*_head_errors(saved["heads"], meta["heads"]), *_data_errors(saved["data"], meta["data"])]
    allowed = []
    before, now = (dict(_flatten(side["config"])) for side in (saved, meta))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) == now.get(key):
            continue
        change = f"config.{key}: {before.get(key)!r} in the checkpoint, {now.get(key)!r} now"
        if any(fnmatch.fnmatchcase(key, pattern) for pattern in _FIXED_KEYS):
            errors.append(change)
        else:
            allowed.append(change)
    if errors:
        remedy = "go back to what the checkpoint has, or start in an empty --workdir"
        raise CheckpointMismatchError("\n".join([f"{where} is of another run; {remedy}:", *errors]))
    return allowed


def _head_errors(saved: dict, now: dict):
    if list(saved) != list(now):
        yield f"heads: {', '.join(saved)} in the checkpoint, {', '.join(now)} now"
    for name in saved.keys() & now.keys():
        old, new = saved[name], now[name]
        if len(old) != len(new):
            yield f"head {name}: {len(old)} classes in the checkpoint, {len(new)} now"
        elif old != new:
            first = next(i for i, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1])
            yield f"head {name}: class {first} is {old[first]!r} in the checkpoint, {new[first]!r} now"


def _data_errors(saved: dict, now: dict):
    for name in saved.keys() & now.keys():
        old, new = saved[name], now[name]
        if old["fingerprint"] != new["fingerprint"]:
            yield (
                f"dataset {name}: the prepared data of {new['builder']} has changed "
                f"({_examples(old)} in the checkpoint, {_examples(new)} now)"
            )


def _examples(data: dict) -> str:
    excluded = data.get("excluded", 0)  # checkpoints of before have none
    left_out = f" without {excluded} that are left out as leaks (config.input.leaks)" if excluded else ""
    return f"{data['examples']} training examples{left_out}"


def _flatten(config: dict):
    # JSON and back, so that tuples and lists compare equal.
    return config_lib.flatten(ConfigDict(json.loads(json.dumps(config))))


def abstract(state, shardings):
    """Shapes, types and shardings of a state: what `restore` fills."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)
