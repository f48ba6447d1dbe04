"""Loads initial parameters from `config.model.init_from`: published weights, or another run."""

import re
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from flax import traverse_util
from ml_collections import ConfigDict

from cover_jax.checkpoint import metadata, restore
from cover_jax.config import keys, schema
from cover_jax.models.heads import HeadSpec, is_per_class
from cover_jax.models.pretrained import loader, resize
from cover_jax.models.pretrained.errors import PretrainedError
from cover_jax.parallel import hosts
from cover_jax.tasks import registry

# Keys of config.model whose other shapes are dealt with: embeddings are resized, heads of another kind are left out.
_ADAPTED = {"size_px", "num_frames", "head"}
_EMBEDDINGS = ("cls_token", "pos_embed", "time_embed")


def load(
    source: str,
    model: ConfigDict,
    class_names: Mapping[str, Sequence[str]],
    tasks: Mapping[str, str] = types.MappingProxyType({}),
    head_specs: Mapping[str, HeadSpec] = types.MappingProxyType({}),
) -> loader.LoadedWeights:
    """Reads `source`: the workdir of a run of this project, or any source that `loader.load` accepts.

    Of a run it reads the newest checkpoint, or that after an @: WORKDIR@best, WORKDIR@STEP; and the moving average if
    there is one. A head is copied row by row, by class name, from the head of the same name, or else from the first
    head of its kind that has all its classes. Other heads of the run are dropped.

    Args:
        source: a file, a folder or WORKDIR[@best|@STEP], local or gs://; or hf://ORG/REPO[@REVISION][/FILE].
        model: `config.model`, as in configs/common.py.
        class_names: head name -> its classes, in order.
        tasks: head name -> its task; heads that it lacks have exactly one class per clip. Of a run, only a head of the
            same task is copied; published weights give only heads of one class per clip.
        head_specs: head name -> what it is; one that is not named is of the kind `model.head`.

    Raises:
        PretrainedError: the source cannot be read, or has other sizes than `model.variant`; or hosts read different
            checkpoints of a run.
    """
    found = find_run(source)
    if found is None:
        linear = {head: names for head, names in class_names.items() if not _other(tasks, head)}
        return loader.load(source, model, linear, head_specs=head_specs)
    trained = _load_trained(source, *found)
    before = trained.config.model
    _check_model(source, before, model)
    backbone, resized = _backbone(trained.params["backbone"], model)
    specs = {head: head_specs.get(head) or HeadSpec.of(model) for head in class_names}
    heads, head_lines = _heads(trained, specs, class_names, tasks)
    report = [
        f"initialised from {source}: a run of this project, step {trained.step}",
        *resized,
        *head_lines,
        *_function_lines(before, model),
    ]
    return loader.LoadedWeights(backbone | heads, (), tuple(report))


def find_run(source: str) -> tuple[str, str] | None:
    """(workdir, which checkpoint) if `source` is WORKDIR or WORKDIR@WHICH of a run of this project; otherwise None.

    A folder whose own name has an @ is found as it is.

    Raises:
        PretrainedError: a checkpoint is asked for, but there is no run.
    """
    if source.startswith("hf://"):
        return None  # there, an @ is before a revision
    if _has_checkpoints(source):
        return str(epath.Path(source).expanduser()), "newest"
    workdir, at, which = source.rpartition("@")
    if not at or epath.Path(source).expanduser().exists():
        return None
    if _has_checkpoints(workdir):
        return str(epath.Path(workdir).expanduser()), which
    if re.fullmatch(r"newest|best|\d+", which):
        raise PretrainedError(f"{source}: {workdir} is not the --workdir of a run: it has no folder checkpoints")
    return None


def _has_checkpoints(workdir: str) -> bool:
    exists: bool = (epath.Path(workdir).expanduser() / "checkpoints").exists()
    return exists


def _load_trained(source: str, workdir: str, which: str) -> metadata.TrainedModel:
    try:
        trained = restore.load_trained(workdir, which)
    except FileNotFoundError as error:
        raise PretrainedError(f"{source}: {error}") from error
    if which == "best" and trained.config.best_metric not in trained.accuracies:
        raise PretrainedError(f"{source}: no checkpoint there was evaluated; name one: {workdir}@{trained.step}")
    # A run that still trains may save between the moments at which two hosts look.
    steps = hosts.exchange(str(trained.step))
    if len(set(steps)) > 1:
        read = ", ".join(steps)
        raise PretrainedError(f"{source}: hosts read different steps, {read}; name one: {workdir}@{steps[0]}")
    return trained


def _check_model(source: str, before: ConfigDict, model: ConfigDict) -> None:
    """Refuses another shape than the run has, where nothing adapts the run's arrays to it."""
    shapes = [name for name in keys.differing(schema.Model, before, model, keys.Changes.SHAPE) if name not in _ADAPTED]
    if shapes:
        own, right = (", ".join(f"config.model.{name}={one[name]!r}" for name in shapes) for one in (model, before))
        raise PretrainedError(f"{source}: is no model with {own}; use {right}")


def _function_lines(before: ConfigDict, model: ConfigDict) -> list[str]:
    """What the model computes otherwise than the run's."""
    functions = keys.differing(schema.Model, before, model, keys.Changes.FUNCTION)
    return loader.setting_lines({name: before[name] for name in functions}, model)


def _backbone(params: dict[str, Any], model: ConfigDict) -> tuple[dict[str, np.ndarray], list[str]]:
    embeddings, lines = resize.embeddings({name: params[name] for name in _EMBEDDINGS}, model)
    return traverse_util.flatten_dict({"backbone": params | embeddings}, sep="/"), lines


def _heads(
    trained: metadata.TrainedModel,
    specs: Mapping[str, HeadSpec],
    class_names: Mapping[str, Sequence[str]],
    tasks: Mapping[str, str],
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Parameters of the heads that are copied, and one report line per head."""
    of_run = {name: trained.head_spec(name) for name in trained.class_names}
    sources: dict[str, str | None] = {}
    for head, classes in class_names.items():
        task = tasks.get(head, registry.DEFAULT)
        alike = {
            name: names
            for name, names in trained.class_names.items()
            if of_run[name] == specs[head] and trained.dataset(name).task == task
        }
        sources[head] = _source(alike, head, classes)
    arrays: dict[str, np.ndarray] = {}
    lines: list[str] = []
    for head, classes in class_names.items():
        if (source := sources[head]) is None:
            lines.append(f"head {head}: new")
            continue
        arrays |= _rows(trained, source, head, classes)
        lines.append(f"head {head}: taken over from head {source}, all {len(classes)} classes by name")
    for head in trained.class_names:
        if head not in sources.values():
            same_kind = of_run[head] in specs.values()
            why = "no head here has its classes" if same_kind else f"it is {_describe(of_run[head])}"
            lines.append(f"not taken: head {head}: {why}")
    return arrays, lines


def _other(tasks: Mapping[str, str], head: str) -> bool:
    """Whether a head has another task than exactly one class per clip."""
    default = registry.DEFAULT
    return tasks.get(head, default) != default


def _describe(spec: HeadSpec) -> str:
    sizes = f" (depth {spec.depth}, num_heads {spec.num_heads})" if spec.kind == "attentive" else ""
    return f"{spec.kind!r}{sizes}, and no head here is"


def _source(of_run: Mapping[str, Sequence[str]], head: str, classes: Sequence[str]) -> str | None:
    """The head of the run that has all `classes`: the head of the same name, or else the first such head."""
    having = [name for name, names in of_run.items() if set(classes) <= set(names)]
    return head if head in having else next(iter(having), None)


def _rows(trained: metadata.TrainedModel, source: str, head: str, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """Parameters of `head`: those of the run's head `source`, with logits in the order of `classes`."""
    order = [trained.class_names[source].index(name) for name in classes]
    leaves = traverse_util.flatten_dict(trained.params["heads"][source], sep="/")
    return {
        f"heads/{head}/{leaf}": array[..., order] if is_per_class(leaf) else array for leaf, array in leaves.items()
    }
