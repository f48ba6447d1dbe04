"""Orbax checkpoints of a run: its state, its class names, its config and its data. The only module that imports orbax.

`python -m cover_jax.checkpoint verify WORKDIR` compares every leaf of every checkpoint with its fingerprint.

    WORKDIR/checkpoints/STEP/state     the TrainState, sharded, written while training goes on
    WORKDIR/checkpoints/STEP/meta      JSON: what the state means (see `make_meta`), and its fingerprints (integrity.py)
    WORKDIR/checkpoints/STEP/metrics   JSON: accuracies, and of how many examples; empty where it was not evaluated
"""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import math
import sys
import types
from collections.abc import Callable, Mapping

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy

from configs import common
from cover_jax import config as config_lib
from cover_jax import exit_codes, fingerprint, hosts, integrity, same_run

PACKAGES = (
    "jax", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "ml_collections", "clu", "einops", "numpy",
)  # fmt: skip
MAX_ERRORS_OF_A_SAVE = 20  # a few files, and threads that wait for each other


class CheckpointDamagedError(RuntimeError):
    """Checkpoints are not what was saved, and no sound one is left. The message names the folder."""

    exit_code = exit_codes.DAMAGED


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


def steps(workdir: str) -> list[int]:
    """The steps that were saved whole, in order."""
    return sorted(ocp.path.step.checkpoint_steps(_folder(workdir)))


def open_manager(workdir: str, keep: int, best_metric: str, save_timeout_s: float) -> ocp.CheckpointManager:
    """The checkpoints of a run, to be written: `keep` of the latest and `keep` of the best by `best_metric` stay.

    What a killed process left half-written is removed: only for whoever holds the workdir.

    Args:
        save_timeout_s: after which a save fails that a host has not finished.
    """
    _set_aside_unreadable(workdir)

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
        cleanup_tmp_directories=True,
        async_options=ocp.AsyncOptions(timeout_secs=round(save_timeout_s)),
    )
    return _Manager(_folder(workdir), options=options)


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Leaves that to `preemption`: orbax asks JAX for each step that it saves, in its own thread for a past one."""
        return False


def _set_aside_unreadable(workdir: str) -> None:
    """Orbax cannot open a folder in which one checkpoint's JSON is broken."""
    if jax.process_index() == 0:
        for step in steps(workdir):
            path = _folder(workdir) / str(step)
            if problems := integrity.read_meta(path)[1]:
                moved = integrity.set_aside(path, workdir)
                hosts.say(f"WARNING: {path} is damaged, set aside as {moved}: {problems[0]}")
    hosts.exchange("")


def _folder(workdir: str) -> epath.Path:
    """Where a run's checkpoints stand: an absolute path, as orbax wants it, or a URL."""
    folder = epath.Path(workdir) / "checkpoints"
    if "://" not in str(workdir):
        return folder.resolve()
    if str(workdir).startswith("gs://") and importlib.util.find_spec("google.cloud.storage") is None:
        raise config_lib.ConfigError(f"{workdir}: checkpoints in a bucket need more packages: pip install -e '.[gcs]'")
    return folder  # resolved, it would become a local one


def save(manager: ocp.CheckpointManager, state, meta: dict, accuracies: dict[str, float] | None) -> None:
    """Starts saving the state under its step, and returns.

    Raises:
        Whatever the save before this one failed with.
    """
    accuracies = accuracies or {}  # None: orbax would warn at every save
    sealed = integrity.seal(meta | {"fingerprints": fingerprint.as_json(fingerprint.of_tree(state))}, accuracies)
    items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(sealed))
    manager.save(int(state.step), args=items, metrics=accuracies, force=True)


def close_failed(manager: ocp.CheckpointManager) -> None:
    """Closes what a save has failed with, on all hosts, and removes what it has left.

    One failure gives several errors, each of which orbax raises once, the later ones when the next save begins: on
    that host alone, while the others wait for it.
    """
    for _ in range(MAX_ERRORS_OF_A_SAVE):
        with contextlib.suppress(Exception):
            manager.close()
            break
    hosts.exchange("closed")  # none writes any more
    if jax.process_index() == 0:
        with contextlib.suppress(Exception):  # the storage may not answer; whoever opens the folder next tries again
            for path in manager.directory.glob("*.orbax-checkpoint-tmp*"):
                path.rmtree(missing_ok=True)


def restore_newest(
    workdir: str, state_like_of: Callable[[dict], object], meta: dict, set_aside: bool
) -> tuple[object, dict]:
    """(state of the newest sound checkpoint, its meta); (None, {}) where there is none.

    Every leaf is compared with the fingerprint that was taken when it was saved. A damaged checkpoint is passed over,
    loudly, for the one before. On several hosts all call this, and all take the same.

    Args:
        workdir: of the run.
        state_like_of: meta of a checkpoint -> shapes and shardings of its state.
        meta: what the run now says of itself (`make_meta`).
        set_aside: move damaged ones to WORKDIR/damaged; only for whoever holds the workdir.

    Raises:
        CheckpointMismatchError: the checkpoint is of another run (see `same_run.check`).
        CheckpointDamagedError: there were some, and none is sound.
    """
    damaged = []
    while (step := _newest(workdir, damaged)) is not None:
        folder = _folder(workdir) / str(step)
        state, saved, problems = _restore(folder, state_like_of, meta)
        if not problems:
            return state, saved
        damaged.append(step)
        moved = set_aside and jax.process_index() == 0
        where = f"set aside as {integrity.set_aside(folder, workdir)}" if moved else "passed over"
        hosts.say(f"WARNING: {folder} is damaged, {where}: {'; '.join(problems)}")
        hosts.exchange("moved")
    _refuse_to_begin_anew(workdir, damaged)
    return None, {}


def _newest(workdir: str, damaged: list[int]) -> int | None:
    """The newest step as the first host sees it: another's view of the folder may be older."""
    newest = max((step for step in steps(workdir) if step not in damaged), default="")
    newest = hosts.exchange(str(newest))[0]
    return int(newest) if newest else None


def _refuse_to_begin_anew(workdir: str, damaged: list[int]) -> None:
    """Raises where there is, or was, a damaged checkpoint and no other."""
    kept = integrity.damaged_folder(workdir)
    if damaged or kept.exists():
        where = kept if kept.exists() else _folder(workdir)
        raise CheckpointDamagedError(
            f"{where}: all checkpoints are damaged, none is left to go on from; to begin anew, move it away or take "
            "another --workdir"
        )


def _restore(folder: epath.Path, state_like_of, meta: dict) -> tuple[object, dict, list[str]]:
    """(state, its meta, []), or what is damaged as the last, which is the same on all hosts."""
    hosts.say(f"continuing from {folder}")
    saved, problems = integrity.read_meta(folder)
    state = None
    if not problems:
        changes = same_run.check(saved, meta, str(folder))
        for change in changes:
            hosts.say(f"changed since the checkpoint: {change}")
        state, problems = _read_state(folder, state_like_of(saved), saved, changes)
    found = hosts.exchange("; ".join(problems))
    if any(found):
        return None, {}, [f"host {host}: {text}" if len(found) > 1 else text for host, text in enumerate(found) if text]
    if not integrity.is_sealed(saved):
        hosts.say(f"{folder} was saved by an earlier version, without fingerprints: damage would not be noticed")
    return state, saved, integrity.compare(saved, fingerprint.as_json(fingerprint.of_tree(state)))


def _read_state(folder: epath.Path, state_like, saved: dict, changes: list[str]) -> tuple[object, list[str]]:
    """(state, []), or (None, what is damaged in what this host reads).

    By orbax's handler and not its manager, which would wait for a host that cannot read its part.
    """
    try:
        with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
            return handler.restore(folder / "state", args=ocp.args.StandardRestore(state_like)), []
    except Exception as error:
        if not integrity.is_damage(error):
            raise
        if list(saved.get("fingerprints", ())) == fingerprint.paths(state_like):  # it must have been readable
            return None, [integrity.one_line(error)]
        if problems := damage(folder):
            return None, problems
        # Some keys decide what the optimizer remembers: whether there is an average, a clipped norm, a frozen part.
        raise same_run.CheckpointMismatchError(
            "\n".join([f"{folder} cannot be restored with what changed; go back to what the checkpoint has:", *changes])
        ) from error


def damage(folder: epath.Path) -> list[str]:
    """What is damaged in one checkpoint; needs no config and no devices, but memory for the whole state."""
    meta, problems = integrity.read_meta(folder)
    if problems:
        return problems
    try:
        found = fingerprint.as_json(fingerprint.of_host_tree(_read_arrays(folder / "state", lambda name: True)))
    except Exception as error:
        if not integrity.is_damage(error):
            raise
        return [integrity.one_line(error)]
    missing = [f"{path}: missing" for path in meta.get("fingerprints", {}) if path not in found]
    return missing[:1] or integrity.compare(meta, found)


def _read_arrays(folder: epath.Path, wanted) -> dict:
    """The parts of a saved state whose name is `wanted`, as NumPy arrays."""
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        shapes = {name: part for name, part in handler.metadata(folder).tree.items() if wanted(name)}
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        return handler.restore(
            folder, args=ocp.args.PyTreeRestore(shapes, restore_args=restore_args, partial_restore=True)
        )


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


def load_trained(workdir: str, which: str = "newest") -> Trained:
    """The model of one of a run's sound checkpoints; needs neither its data nor its devices, and changes nothing there.

    Args:
        workdir: of the run, local or gs://.
        which: "newest"; "best" by config.best_metric, the latest of equal ones; or the step of one that is kept.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        CheckpointDamagedError: there are some, and none is sound.
    """
    return _first_sound(workdir, which, lambda step, meta: _load(_folder(workdir) / str(step), meta))


def best(workdir: str, metric: str) -> tuple[int, float] | None:
    """The best of the kept checkpoints, the latest of equal ones, and its `metric`; None if none was evaluated."""
    ranked = _by_metric(workdir, metric)
    return (ranked[0][1], ranked[0][0]) if ranked and ranked[0][0] > -math.inf else None


def _by_metric(workdir: str, metric: str) -> list[tuple[float, int]]:
    """(value, step) of the kept checkpoints, the best first; -inf where it was not evaluated."""
    folders = {step: _folder(workdir) / str(step) for step in steps(workdir)}
    sound = [step for step, folder in folders.items() if not integrity.read_meta(folder)[1]]
    return sorted(((_accuracies(folders[step]).get(metric, -math.inf), step) for step in sound), reverse=True)


def _candidates(workdir: str, which: str) -> list[int]:
    """The steps that `which` means, the first choice first; see `load_trained`."""
    kept = steps(workdir)[::-1]
    if which == "newest" or not kept:
        return kept
    if which == "best":
        metas = (integrity.read_meta(_folder(workdir) / str(step)) for step in kept)
        meta = next((meta for meta, problems in metas if not problems), None)
        return [step for _, step in _by_metric(workdir, meta["config"]["best_metric"])] if meta else kept
    if which not in map(str, kept):
        right = ", ".join(["newest", "best", *map(str, kept)])
        raise FileNotFoundError(f"{_folder(workdir)}: no step {which}; must be one of {right}")
    return [int(which)]


def newest(workdir: str) -> tuple[int, dict, dict[str, float]]:
    """A run's newest checkpoint: its step, what it says of itself (`make_meta`), and its accuracies if there are any.

    Raises:
        FileNotFoundError: there is no checkpoint.
        CheckpointDamagedError: there are some, and none is sound, as far as this can tell without the arrays.
    """
    folder = _folder(workdir)
    return _first_sound(workdir, "newest", lambda step, meta: ((step, meta, _accuracies(folder / str(step))), []))


def _first_sound(workdir: str, which: str, read):
    """What `read(step, meta) -> (result, what is damaged)` gives of the first choice that is not damaged."""
    folder, damaged = _folder(workdir), []
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no checkpoints; is {workdir} the --workdir of a run?")
    for step in _candidates(workdir, which):
        meta, problems = integrity.read_meta(folder / str(step))
        if not problems:
            result, problems = read(step, meta)
        if not problems:
            return result
        damaged.append(step)
        print(f"WARNING: {folder / str(step)} is damaged, passed over: {problems[0]}", file=sys.stderr, flush=True)
    _refuse_to_begin_anew(workdir, damaged)
    raise FileNotFoundError(f"{folder}: no checkpoint yet")


def config_of(meta: dict) -> ConfigDict:
    """The config of a checkpoint; keys that came after it have their defaults."""
    config = common.get_config()
    with config.ignore_type(), config.unlocked():
        config.datasets = {name: common.dataset() for name in meta["config"]["datasets"]}
        config.update(meta["config"])
    return config


def _accuracies(folder: epath.Path) -> dict[str, float]:
    return json.loads((folder / "metrics" / "metrics").read_text())


def _load(folder: epath.Path, meta: dict) -> tuple[Trained | None, list[str]]:
    """(model, []), or (None, what is damaged)."""
    config = config_of(meta)
    which = "ema" if config.optimizer.ema_decay else "params"
    try:
        arrays = _read_arrays(folder / "state", lambda name: name == which)
    except Exception as error:
        if not integrity.is_damage(error):
            raise
        return None, [integrity.one_line(error)]
    problems = integrity.compare(meta, fingerprint.as_json(fingerprint.of_host_tree(arrays)))
    step, accuracies = int(folder.name), _accuracies(folder)
    return Trained(config, meta["heads"], arrays[which], step, meta, accuracies), problems


def abstract(state, shardings):
    """Shapes, types and shardings of a state: what `restore` fills."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)


def verify(workdir: str) -> bool:
    """Prints a line for each checkpoint of a run; whether all are sound."""
    sound = True
    for step in steps(workdir):
        folder = _folder(workdir) / str(step)
        problems = damage(folder)
        sound &= not problems
        print(f"{folder}: {'; '.join(problems) or _soundness(folder)}", flush=True)
    return sound


def _soundness(folder: epath.Path) -> str:
    meta, _ = integrity.read_meta(folder)
    if not integrity.is_sealed(meta):
        return "readable; saved by an earlier version, without fingerprints"
    return f"sound, all {len(meta['fingerprints'])} leaves"


def main(argv: list[str]) -> None:
    if len(argv) != 2 or argv[0] != "verify":
        sys.exit("usage: python -m cover_jax.checkpoint verify WORKDIR")
    if not steps(argv[1]):
        sys.exit(f"error: {_folder(argv[1])}: no checkpoints")
    if not verify(argv[1]):
        sys.exit(exit_codes.DAMAGED)


if __name__ == "__main__":
    main(sys.argv[1:])
