"""Reads checkpoints: the state that a run continues from, and trained models without their run.

A damaged checkpoint is skipped with a warning, and the previous one is used.
"""

import contextlib
import math
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from cover_jax import errors
from cover_jax.checkpoint import compatibility, fingerprint, integrity, layout, metadata
from cover_jax.checkpoint.layout import Meta
from cover_jax.parallel import backend, hosts

_State = TypeVar("_State")  # a tree of arrays, or the shapes of one
_Result = TypeVar("_Result")


class CheckpointDamagedError(RuntimeError):
    """Checkpoints differ from what was saved, and no sound checkpoint is left. The message names the folder."""

    exit_code = errors.DAMAGED


def restore_newest(
    workdir: str, state_like_of: Callable[[Meta], _State], meta: Meta, set_aside: bool
) -> tuple[_State | None, Meta]:
    """(state of the newest sound checkpoint, its meta); (None, {}) if there is no checkpoint.

    Every leaf is compared with the fingerprint from the time of saving. A damaged checkpoint is skipped with a warning,
    and the previous one is used. All hosts must call this, and all use the same checkpoint.

    Args:
        workdir: of the run.
        state_like_of: meta of a checkpoint -> shapes and shardings of its state.
        meta: the metadata of the run now (`make_meta`).
        set_aside: move damaged checkpoints to WORKDIR/damaged. Only the job that holds the workdir may do so.

    Raises:
        CheckpointMismatchError: the checkpoint belongs to another run (see `compatibility.check_same_run`).
        CheckpointDamagedError: there are checkpoints, but none is sound.
    """
    damaged: list[int] = []
    while (step := _newest(workdir, damaged)) is not None:
        folder = layout.checkpoints_folder(workdir) / str(step)
        state, saved, problems = _restore(folder, state_like_of, meta)
        if not problems:
            return state, saved
        damaged.append(step)
        moved = set_aside and jax.process_index() == 0
        where = f"set aside as {integrity.set_aside(folder, workdir)}" if moved else "skipped"
        hosts.print_on_host0(f"WARNING: {folder} is damaged, {where}: {'; '.join(problems)}")
        hosts.exchange("moved")
    _refuse_to_begin_anew(workdir, damaged)
    return None, {}


def _newest(workdir: str, damaged: list[int]) -> int | None:
    """The newest step as the first host sees it: other hosts may see an older state of the folder."""
    newest = max((step for step in layout.saved_steps(workdir) if step not in damaged), default="")
    newest = hosts.exchange(str(newest))[0]
    return int(newest) if newest else None


def _refuse_to_begin_anew(workdir: str, damaged: list[int]) -> None:
    """Raises if there are, or were, checkpoints and all are damaged."""
    kept = integrity.damaged_folder(workdir)
    if damaged or kept.exists():
        where = kept if kept.exists() else layout.checkpoints_folder(workdir)
        raise CheckpointDamagedError(
            f"{where}: all checkpoints are damaged, so the run cannot continue; to start from scratch, move this "
            "folder away or use another --workdir"
        )


def _restore(
    folder: epath.Path, state_like_of: Callable[[Meta], _State], meta: Meta
) -> tuple[_State | None, Meta, list[str]]:
    """(state, its meta, list of the damage). The list is the same on all hosts, and empty for a sound checkpoint."""
    hosts.print_on_host0(f"continuing from {folder}")
    saved, problems = integrity.read_meta(folder)
    _check_name(folder, saved)
    state = None
    if not problems:
        changes = compatibility.check_same_run(saved, meta, str(folder))
        for change in changes:
            hosts.print_on_host0(f"changed since the checkpoint: {change}")
        if unchecked := compatibility.describe_unchecked(saved):
            hosts.print_on_host0(unchecked)
        state, problems = _read_state(folder, state_like_of(saved), saved, changes)
    found = hosts.exchange("; ".join(problems))
    if any(found):
        return None, {}, [f"host {host}: {text}" if len(found) > 1 else text for host, text in enumerate(found) if text]
    if not integrity.is_sealed(saved):
        hosts.print_on_host0(
            f"{folder} was saved by an earlier version, without fingerprints: damage cannot be detected"
        )
    return state, saved, integrity.compare(saved, fingerprint.as_json(fingerprint.fingerprint_tree(state)))


def _read_state(
    folder: epath.Path, state_like: _State, saved: Meta, changes: list[str]
) -> tuple[_State | None, list[str]]:
    """(state, []), or (None, list of the damage in the part that this host reads).

    It uses orbax's handler: the manager would wait for a host that cannot read its part.
    """
    try:
        with contextlib.closing(ocp.StandardCheckpointHandler()) as handler:
            return handler.restore(folder / "state", args=ocp.args.StandardRestore(state_like)), []
    except Exception as error:
        if not integrity.is_damage(error):
            raise
        if list(saved.get("fingerprints", ())) == fingerprint.paths(state_like):  # same leaves, so it must be damage
            return None, [integrity.describe_error(error)]
        if problems := damage(folder):
            return None, problems
        # Some keys decide which leaves the state has: a moving average, a clipped norm, frozen parameters.
        raise compatibility.CheckpointMismatchError(
            "\n".join([f"{folder} cannot be restored with the changed config; restore these values:", *changes])
        ) from error


class RenamedCheckpointError(errors.ConfigError):
    """The folder of a checkpoint was copied or renamed: its name is not the step of its state."""


def _check_name(folder: epath.Path, meta: Meta) -> None:
    if problem := wrong_name(folder, meta):
        raise RenamedCheckpointError(f"{folder}: {problem}")


def wrong_name(folder: epath.Path, meta: Meta) -> str:
    """What is wrong with the name of a checkpoint's folder; "" if it is the step of its state.

    The fingerprint of the state's step tells it, without reading the state.
    """
    saved = meta.get("fingerprints", {}).get("step")  # checkpoints of the first versions have no fingerprints
    expected = fingerprint.as_json(fingerprint.fingerprint_host_tree({"step": np.int32(folder.name)}))["step"]
    if saved in (None, expected):
        return ""
    return (
        f"holds the state of another step than {folder.name}, so it was copied or renamed; rename it to the step of "
        "its state, or move it out of this folder"
    )


def damage(folder: epath.Path) -> list[str]:
    """The damage of one checkpoint, one line per finding.

    Needs no config. Starts JAX's default backend, because orbax needs one, but puts nothing on its devices; needs host
    memory for the whole state.
    """
    backend.start()  # orbax needs one; without it all checkpoints would look damaged
    meta, problems = integrity.read_meta(folder)
    if not problems and (problem := wrong_name(folder, meta)):
        problems = [problem]
    if problems:
        return problems
    try:
        found = fingerprint.as_json(
            fingerprint.fingerprint_host_tree(_read_arrays(folder / "state", lambda name: True))
        )
    except Exception as error:
        if not integrity.is_damage(error):
            raise
        return [integrity.describe_error(error)]
    missing = [f"{path}: missing" for path in meta.get("fingerprints", {}) if path not in found]
    return missing[:1] or integrity.compare(meta, found)


def _read_arrays(folder: epath.Path, wanted: Callable[[str], bool]) -> dict[str, Any]:
    """The parts of a saved state whose name satisfies `wanted`, as NumPy arrays."""
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        shapes = {name: part for name, part in handler.metadata(folder).tree.items() if wanted(name)}
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        arrays: dict[str, Any] = handler.restore(
            folder, args=ocp.args.PyTreeRestore(shapes, restore_args=restore_args, partial_restore=True)
        )
        return arrays


def load_trained(workdir: str, which: str = "newest") -> metadata.TrainedModel:
    """The model of a sound checkpoint of a run. Needs neither the run's data nor its devices, and writes nothing.

    Args:
        workdir: of the run, local or gs://.
        which: "newest"; "best" by config.best_metric (of equal checkpoints the latest); or the step of a checkpoint.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        CheckpointDamagedError: there are checkpoints, but none is sound.
    """
    return _first_sound(workdir, which, lambda step, meta: _load(layout.checkpoints_folder(workdir) / str(step), meta))


def best(workdir: str, metric: str) -> tuple[int, float, float | None] | None:
    """(step, `metric`, its standard error) of the best checkpoint, the latest of equal ones.

    None if no checkpoint was evaluated. The error is None in checkpoints of an older version.
    """
    ranked = _by_metric(workdir, metric)
    if not ranked or ranked[0][0] == -math.inf:
        return None
    value, step = ranked[0]
    return step, value, layout.read_accuracies(layout.checkpoints_folder(workdir) / str(step)).get(f"{metric}_error")


def _by_metric(workdir: str, metric: str) -> list[tuple[float, int]]:
    """(value, step) of the checkpoints, the best first; -inf if the step was not evaluated."""
    folders = {step: layout.checkpoints_folder(workdir) / str(step) for step in layout.saved_steps(workdir)}
    sound = [step for step, folder in folders.items() if not integrity.read_meta(folder)[1]]
    return sorted(
        ((layout.read_accuracies(folders[step]).get(metric, -math.inf), step) for step in sound), reverse=True
    )


def _candidates(workdir: str, which: str) -> list[int]:
    """The steps that `which` selects, in order of preference; see `load_trained`."""
    kept = layout.saved_steps(workdir)[::-1]
    if which == "newest" or not kept:
        return kept
    if which == "best":
        metas = (integrity.read_meta(layout.checkpoints_folder(workdir) / str(step)) for step in kept)
        meta = next((meta for meta, problems in metas if not problems), None)
        return [step for _, step in _by_metric(workdir, meta["config"]["best_metric"])] if meta else kept
    if which not in map(str, kept):
        right = ", ".join(["newest", "best", *map(str, kept)])
        raise FileNotFoundError(f"{layout.checkpoints_folder(workdir)}: no step {which}; must be one of {right}")
    return [int(which)]


def newest(workdir: str) -> tuple[int, Meta, dict[str, float]]:
    """A run's newest checkpoint: its step, its metadata (`make_meta`), and its accuracies if there are any.

    Raises: as `about`.
    """
    return about(workdir, "newest")


def about(workdir: str, which: str) -> tuple[int, Meta, dict[str, float]]:
    """A checkpoint of a run: its step, its metadata (`make_meta`), and its accuracies if there are any.

    Args:
        workdir: of the run, local or gs://.
        which: as in `load_trained`.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        CheckpointDamagedError: there are checkpoints, but none is sound (the arrays are not checked).
    """
    folder = layout.checkpoints_folder(workdir)
    return _first_sound(
        workdir, which, lambda step, meta: ((step, meta, layout.read_accuracies(folder / str(step))), [])
    )


def _first_sound(workdir: str, which: str, read: Callable[[int, Meta], tuple[_Result | None, list[str]]]) -> _Result:
    """The result of `read(step, meta) -> (result, damage)` for the first candidate that is not damaged."""
    backend.start()  # orbax needs one; without it all checkpoints would look damaged
    folder = layout.checkpoints_folder(workdir)
    damaged: list[int] = []
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no checkpoints; is {workdir} the --workdir of a run?")
    for step in _candidates(workdir, which):
        meta, problems = integrity.read_meta(folder / str(step))
        _check_name(folder / str(step), meta)
        result = None
        if not problems:
            result, problems = read(step, meta)
        if result is not None and not problems:
            return result
        damaged.append(step)
        print(f"WARNING: {folder / str(step)} is damaged, skipped: {problems[0]}", file=sys.stderr, flush=True)
    _refuse_to_begin_anew(workdir, damaged)
    raise FileNotFoundError(f"{folder}: no checkpoint yet")


def _load(folder: epath.Path, meta: Meta) -> tuple[metadata.TrainedModel | None, list[str]]:
    """(model, []), or (None, list of the damage)."""
    config = metadata.config_of(meta)
    which = "ema" if config.optimizer.ema_decay else "params"
    try:
        arrays = _read_arrays(folder / "state", lambda name: name == which)
    except Exception as error:
        if not integrity.is_damage(error):
            raise
        return None, [integrity.describe_error(error)]
    problems = integrity.compare(meta, fingerprint.as_json(fingerprint.fingerprint_host_tree(arrays)))
    step, accuracies = int(folder.name), layout.read_accuracies(folder)
    return metadata.TrainedModel(config, meta["heads"], arrays[which], step, meta, accuracies), problems
