"""Fits the head of a trained model to the classes of a prepared dataset, by their names."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from cover_jax.checkpoint import metadata
from cover_jax.errors import ConfigError
from cover_jax.models.heads import is_per_class
from cover_jax.models.pretrained import class_names

_NEVER = -1e9  # the logit of a class that the model does not know
_SHOWN = 5  # names in one line


@dataclasses.dataclass(frozen=True)
class MatchedHead:
    """A head of a trained model for one dataset.

    Attributes:
        source: its name in the model.
        class_names: the dataset's classes in its order, then the other classes of the model's head.
        params: of the head, with its outputs in that order. A class that the model does not know never wins.
        lines: for people: which head it is, and how the class names differ.
    """

    source: str
    class_names: list[str]
    params: dict[str, Any]
    lines: tuple[str, ...]


def match_head(
    trained: metadata.TrainedModel, name: str, classes: Sequence[str], with_others: bool = True
) -> MatchedHead:
    """The head that knows most of a dataset's classes, by name (`class_names.match_names`).

    Args:
        trained: the model.
        name: of the dataset.
        classes: of the dataset, in the order of its labels.
        with_others: keep the other classes of the head: they compete with the dataset's.

    Raises:
        ConfigError: no head knows any of the classes.
    """
    rows = {head: class_names.match_names(names, classes) for head, names in trained.class_names.items()}
    head = max(rows, key=lambda head: (sum(row is not None for row in rows[head]), head == name))
    own = trained.class_names[head]
    known = [row for row in rows[head] if row is not None]
    if not known:
        raise ConfigError(
            f"config.datasets.{name}: no head of the model knows any of its classes ({_some(classes)}); "
            f"head {head} has {_some(own)}"
        )
    others = [row for row in range(len(own)) if row not in set(known)] if with_others else []
    order = [len(own) if row is None else row for row in (*rows[head], *others)]
    names = [*classes, *(own[row] if own[row] not in classes else f"{own[row]} ({head})" for row in others)]
    lines = _lines(name, head, classes, own, rows[head])
    if others:
        said = _some([own[row] for row in others])
        lines.append(f"{name}: the model also predicts {len(others)} other classes: {said}")
    return MatchedHead(head, names, _take(trained.params["heads"][head], order), tuple(lines))


def _take(params: dict[str, Any], order: Sequence[int]) -> dict[str, Any]:
    """The head with its outputs in this order; the index after the last output is the class that never wins."""
    taken = {}
    for path, array in traverse_util.flatten_dict(params, sep="/").items():
        if not is_per_class(path):
            taken[path] = array
            continue
        never = np.full((*array.shape[:-1], 1), _NEVER if path.endswith("bias") else 0.0, np.float32)
        taken[path] = np.concatenate([np.asarray(array), never], axis=-1)[..., order]
    head: dict[str, Any] = traverse_util.unflatten_dict(taken, sep="/")
    return head


def _lines(name: str, head: str, classes: Sequence[str], own: Sequence[str], rows: Sequence[int | None]) -> list[str]:
    known = [(ours, own[row]) for ours, row in zip(classes, rows, strict=True) if row is not None]
    lines = [f"{name}: head {head} of the model knows {len(known)} of its {len(classes)} classes, by name"]
    if unknown := [ours for ours, row in zip(classes, rows, strict=True) if row is None]:
        lines.append(f"WARNING: {name}: unknown to the model, so never predicted: {_some(unknown)}")
    if spelt := [f"{ours} = {theirs}" for ours, theirs in known if ours != theirs]:
        lines.append(f"{name}: spelt otherwise by the model: {_some(spelt)}")
    return lines


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f", ... ({len(names)} in all)" if len(names) > _SHOWN else "")
