"""Checks that a checkpoint belongs to the run that continues from it, and carries its state over to a changed mix.

Heads, data and some config keys must stay the same. With config.allow_changed_mix the mix may change. The backbone, the
heads and their optimizer state are kept. The head of a new dataset starts as in a new run. The head of a removed
dataset is dropped (the checkpoints before the change still have it).
"""

import fnmatch
import json
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from ml_collections import ConfigDict

from cover_jax.checkpoint.layout import Meta
from cover_jax.config import checks, keys, schema
from cover_jax.errors import ConfigError
from cover_jax.parallel import compilation
from cover_jax.tasks.head_list import HeadList
from data_pipelines.stream import contents as contents_of

# Config keys that decide the input of a step or the shapes of the state. Continuing with another value would silently
# make it another run.
_FIXED_KEYS = (
    "seed", "plan", "optimizer.name",
    *(f"model.{name}" for name in keys.that_change(schema.Model, keys.Changes.SHAPE)),
    "datasets.*.builder", "datasets.*.task", "datasets.*.heads", "datasets.*.train_split", "datasets.*.weight",
    "datasets.*.weight_schedule", "datasets.*.batch_size", "datasets.*.repeats", "datasets.*.same_clips_as",
    "datasets.*.head.kind", "datasets.*.head.depth", "datasets.*.head.num_heads",
)  # fmt: skip


_State = TypeVar("_State")  # a state, or a tree with one entry per leaf of a state


class CheckpointMismatchError(ConfigError):
    """The checkpoint belongs to a run with other heads, data or input order. The message lists all differences."""


def check_same_run(saved: Meta, meta: Meta, where: str) -> list[str]:
    """Refuses a checkpoint of another run. Returns the allowed changes of the config, one line per change.

    Raises:
        CheckpointMismatchError: heads, class order, data or a fixed config key differ.
    """
    errors, allowed = list(_class_errors(saved["heads"], meta["heads"])), list(_other_versions(saved, meta))
    other_data = list(_data_errors(saved, meta))
    (allowed if meta["config"].get("allow_changed_mix") else errors).extend(other_data)
    if list(saved["heads"]) != list(meta["heads"]):
        change = f"heads: {', '.join(saved['heads'])} in the checkpoint, {', '.join(meta['heads'])} now"
        (allowed if meta["config"].get("allow_changed_mix") else errors).append(change)
    before, now = (dict(_flatten(side["config"])) for side in (saved, meta))
    for key in sorted(before.keys() | now.keys()):
        old, new = (side.get(key, _default(key)) for side in (before, now))
        if old == new or _same_heads(key, old, new):
            continue
        change = f"config.{key}: {old!r} in the checkpoint, {new!r} now"
        fixed = any(fnmatch.fnmatchcase(key, pattern) for pattern in _FIXED_KEYS)
        if fixed and not is_free(key, saved["config"], meta["config"]):
            errors.append(change)
        else:
            allowed.append(change)
    if errors:
        remedy = "restore the values of the checkpoint, or start in an empty --workdir"
        if would_allow(saved["config"], meta["config"]) or (other_data and errors == other_data):
            remedy += ", or allow the changed mix with --config.allow_changed_mix"
        raise CheckpointMismatchError("\n".join([f"{where} belongs to another run; {remedy}:", *errors]))
    return allowed


def _class_errors(saved: dict[str, list[str]], now: dict[str, list[str]]) -> Iterator[str]:
    for name in saved.keys() & now.keys():
        old, new = saved[name], now[name]
        if len(old) != len(new):
            yield f"head {name}: {len(old)} classes in the checkpoint, {len(new)} now"
        elif old != new:
            first = next(i for i, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1])
            yield f"head {name}: class {first} is {old[first]!r} in the checkpoint, {new[first]!r} now"


def _data_errors(saved: Meta, now: Meta) -> Iterator[str]:
    """What differs in the data of the datasets that stay: one line per split."""
    for name in sorted(saved["data"].keys() & now["data"].keys()):
        old, new = saved["data"][name], now["data"][name]
        contents = [side.get("contents", {}).get(name, {}) for side in (saved, now)]
        found = {
            split: contents_of.difference(contents[0][split], contents[1][split])
            for split in contents[0].keys() & contents[1].keys()
            if contents[0][split]["split"] == contents[1][split]["split"]  # or the config differs, which is told
        }
        if old["fingerprint"] != new["fingerprint"]:
            why = f"; {found.pop('train')}" if found.get("train") else ""
            yield (
                f"dataset {name}: the prepared data of {new['builder']} has changed "
                f"({_examples(old)} in the checkpoint, {_examples(new)} now{why})"
            )
        for split, what in sorted(found.items()):
            if what:
                yield f"dataset {name}: the prepared {split} data of {new['builder']} has changed: {what}"


def describe_unchecked(saved: Meta) -> str:
    """Which datasets' records cannot be compared with those that the run used before; "" if all can."""
    known = saved.get("contents", {})
    unknown = [name for name in saved["data"] if not known.get(name, {}).get("train", {}).get("in_order")]
    if not unknown:
        return ""
    return (
        f"whether the records of {', '.join(unknown)} are those of before cannot be checked: the checkpoint has no "
        "checksums of them"
    )


def _other_versions(saved: Meta, now: Meta) -> Iterator[str]:
    """The versions that differ, and what that may change."""
    before, after = saved.get("versions", {}), now.get("versions", {})
    changed = [f"{name} {old} -> {after[name]}" for name, old in before.items() if after.get(name, old) != old]
    if changed:
        yield (
            f"versions: {', '.join(changed)}; numbers may differ in their last bits from here on, so the end is not "
            "bit for bit that of a run with the versions of before"
        )


def _examples(data: dict[str, Any]) -> str:
    excluded = data.get("excluded", 0)  # old checkpoints do not have the key
    left_out = f" without {excluded} that are left out as leaks (config.input.leaks)" if excluded else ""
    return f"{data['examples']} training examples{left_out}"


def _flatten(config: dict[str, Any]) -> Iterator[tuple[str, object]]:
    # Through JSON, so that tuples and lists compare equal.
    for key, value in checks.flatten(ConfigDict(json.loads(json.dumps(config)))):
        yield key, checks.current(key, value)


def _same_heads(key: str, old: object, new: object) -> bool:
    """Whether it is the key of a dataset's heads, and both texts name the same ones, such as with other blanks."""
    if not (fnmatch.fnmatchcase(key, "datasets.*.heads") and isinstance(old, str) and isinstance(new, str)):
        return False
    return HeadList.parse(old) == HeadList.parse(new)


def _default(key: str) -> object:
    """What a key had in checkpoints that are older than it; None for a key of no group."""
    declared = keys.find(schema.Run, key)
    return json.loads(json.dumps(declared.default)) if declared else None


def is_free(key: str, saved: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether a config key may differ from the checkpoint's: keys of the mix, and of added or removed datasets.

    Args:
        key: for example "datasets.motion.weight".
        saved: config of the checkpoint, as nested dicts.
        now: config of this run.
    """
    if not now["allow_changed_mix"]:
        return False
    came_or_left = saved["datasets"].keys() ^ now["datasets"].keys()
    free = ["plan", "datasets.*.weight", "datasets.*.weight_schedule", *(f"datasets.{name}.*" for name in came_or_left)]
    return any(fnmatch.fnmatchcase(key, pattern) for pattern in free)


def would_allow(saved: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether the mix differs and config.allow_changed_mix is off."""

    def mix(config: dict[str, Any]) -> tuple[str, dict[str, tuple[float, str]]]:
        datasets = config["datasets"].items()
        return config["plan"], {name: (one["weight"], one.get("weight_schedule", "")) for name, one in datasets}

    return mix(saved) != mix(now) and not now["allow_changed_mix"]


def carry_over(restored: object, init: Callable[[jax.Array], _State], shardings: _State, key: jax.Array) -> _State:
    """The state of the new mix: leaves that `restored` has at the same path are kept; `init` creates the others.

    Args:
        restored: the state of the old mix.
        init: PRNG key -> a new state of the new mix.
        shardings: of the new state.
        key: for `init`.
    """
    old = _by_path(restored)

    def make_others(key: jax.Array) -> dict[str, jax.Array]:
        return {path: leaf for path, leaf in _by_path(init(key)).items() if path not in old}

    of_others = {path: leaf for path, leaf in _by_path(shardings).items() if path not in old}
    others = compilation.jit(make_others, out_shardings=of_others)(key)
    leaves = old | others
    state: _State = jax.tree_util.tree_map_with_path(lambda path, _: leaves[_name(path)], shardings)
    return state


def _by_path(tree: object) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
