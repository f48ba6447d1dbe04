"""Whether a checkpoint belongs to the run that wants to go on from it: heads, data and what of the config must stay."""

import fnmatch
import json
from collections.abc import Iterator

from ml_collections import ConfigDict

from cover_jax import changed_mix
from cover_jax import config as config_lib

# Config keys that say where in the input a step stands, or which shapes the state has: to continue with another value
# would silently be another run.
_FIXED_KEYS = (
    "seed", "plan", "model.variant", "model.head", "model.size_px", "model.num_frames", "optimizer.name",
    "datasets.*.builder", "datasets.*.train_split", "datasets.*.weight", "datasets.*.batch_size", "datasets.*.repeats",
)  # fmt: skip


class CheckpointMismatchError(config_lib.ConfigError):
    """The checkpoint belongs to a run with other heads, data or input order. The message has a line for each."""


def check(saved: dict, meta: dict, where: str) -> list[str]:
    """Refuses a checkpoint of another run; returns the changes of config that are allowed, one line each.

    Raises:
        CheckpointMismatchError: other heads, another class order, other data, or a config key that must stay.
    """
    errors = [*_class_errors(saved["heads"], meta["heads"]), *_data_errors(saved["data"], meta["data"])]
    allowed = []
    if list(saved["heads"]) != list(meta["heads"]):
        change = f"heads: {', '.join(saved['heads'])} in the checkpoint, {', '.join(meta['heads'])} now"
        (allowed if meta["config"].get("allow_changed_mix") else errors).append(change)
    before, now = (dict(_flatten(side["config"])) for side in (saved, meta))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) == now.get(key):
            continue
        change = f"config.{key}: {before.get(key)!r} in the checkpoint, {now.get(key)!r} now"
        fixed = any(fnmatch.fnmatchcase(key, pattern) for pattern in _FIXED_KEYS)
        if fixed and not changed_mix.is_free(key, saved["config"], meta["config"]):
            errors.append(change)
        else:
            allowed.append(change)
    if errors:
        remedy = "go back to what the checkpoint has, or start in an empty --workdir"
        if changed_mix.would_allow(saved["config"], meta["config"]):
            remedy += ", or go on with another mix by --config.allow_changed_mix"
        raise CheckpointMismatchError("\n".join([f"{where} is of another run; {remedy}:", *errors]))
    return allowed


def _class_errors(saved: dict, now: dict) -> Iterator[str]:
    for name in saved.keys() & now.keys():
        old, new = saved[name], now[name]
        if len(old) != len(new):
            yield f"head {name}: {len(old)} classes in the checkpoint, {len(new)} now"
        elif old != new:
            first = next(i for i, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1])
            yield f"head {name}: class {first} is {old[first]!r} in the checkpoint, {new[first]!r} now"


def _data_errors(saved: dict, now: dict) -> Iterator[str]:
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


def _flatten(config: dict) -> dict:
    # JSON and back, so that tuples and lists compare equal.
    return config_lib.flatten(ConfigDict(json.loads(json.dumps(config))))
