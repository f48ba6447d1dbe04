"""Whether a checkpoint is what was saved: what is stored to tell, what is read of it, and where damaged ones go.

A checkpoint's JSON, `meta`, holds a fingerprint for each leaf of the state (fingerprint.py), the accuracies that are
stored beside it, and a hash over all of itself.
"""

import hashlib
import json

from etils import epath

from cover_jax.checkpoint import layout
from cover_jax.checkpoint.layout import Meta
from data_pipelines import files

# Errors of storage that say nothing about what is stored there.
_NO_ANSWER = (
    "UNAVAILABLE", "DEADLINE_EXCEEDED", "PERMISSION_DENIED", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "ABORTED",
)  # fmt: skip
_FORM = {"heads": {str: [str]}, "data": {}, "config": {"datasets": {}}}  # of what any version has saved
_NAMED = 3  # leaves that a message names


def seal(meta: Meta, accuracies: dict[str, float]) -> Meta:
    """`meta` with the accuracies and its own hash."""
    meta = json.loads(json.dumps({**meta, "accuracies": accuracies}))
    return {**meta, "hash": _hash(meta)}


def _hash(meta: Meta) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def read_meta(folder: epath.Path) -> tuple[Meta, list[str]]:
    """(what a checkpoint says of itself, what is damaged in it)."""
    try:
        meta = files.read_json(folder / "meta" / "metadata", _FORM, finite=False)
        accuracies = layout.read_accuracies(folder)
    except Exception as error:
        if not is_damage(error):
            raise
        return {}, [describe_error(error)]
    if is_sealed(meta):
        meta = dict(meta)
        if meta.pop("hash", None) != _hash(meta):
            return {}, ["meta is not what was saved"]
        if meta["accuracies"] != accuracies:
            return {}, ["metrics are not what was saved"]
    return meta, []


def is_sealed(meta: Meta) -> bool:
    """Whether it has, or had, anything to be checked by: checkpoints of earlier versions have not."""
    return any(key in meta for key in ("hash", "fingerprints", "accuracies"))


def compare(meta: Meta, found: dict[str, str]) -> list[str]:
    """What differs between the fingerprints in `meta` and those `found`; nothing where it has none."""
    if not is_sealed(meta):
        return []
    wrong = [path for path, value in found.items() if meta["fingerprints"].get(path) != value]
    if not wrong:
        return []
    more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    return [f"{', '.join(wrong[:_NAMED])}{more}: not what was saved"]


def is_damage(error: Exception) -> bool:
    """Whether an error while reading says that what is stored is wrong, and not that the storage does not answer."""
    if isinstance(error, FileNotFoundError) or type(error).__name__ == "NotFoundError":  # the latter is TensorFlow's
        return True
    if type(error) is Exception and isinstance(error.__cause__, Exception):  # orbax, of a part of an array
        return is_damage(error.__cause__)
    # Orbax and TensorStore raise these for whatever they cannot read; the clients of buckets have errors of their own.
    unreadable = ValueError | LookupError | TypeError | AttributeError | AssertionError | NotImplementedError
    return isinstance(error, unreadable | ArithmeticError) and not any(code in str(error) for code in _NO_ANSWER)


def describe_error(error: Exception) -> str:
    """Without what TensorStore says of itself after the reason."""
    lines = str(error).partition(" [")[0].splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:600]}"


def damaged_folder(workdir: str) -> epath.Path:
    """Where damaged checkpoints are moved to: WORKDIR/damaged."""
    return epath.Path(workdir) / "damaged"


def set_aside(checkpoint: epath.Path, workdir: str) -> epath.Path:
    """Moves a damaged checkpoint out of the way, keeping all of it; returns where it is now."""
    folder = damaged_folder(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    while (target := folder / f"{checkpoint.name}{f'.{number}' if number else ''}").exists():
        number += 1
    checkpoint.rename(target)
    return target
