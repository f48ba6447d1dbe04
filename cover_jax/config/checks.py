"""One check of a config before anything heavy happens: against the schema, then value by value.

Whatever is wrong is reported at once, each line with the key, its value and what would be right.
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cover_jax.config import keys, plugins, schema
from cover_jax.errors import ConfigError
from cover_jax.models import variants
from cover_jax.tasks import registry
from cover_jax.tasks.head_list import HeadList
from data_pipelines.stream import mixture

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_CLOSE = 0.6  # how alike a key must be to an unknown one to be named, 0..1
_SHOWN_KEYS = 3


def validate(config: ConfigDict) -> None:
    """Checks a whole config; needs no device, no data and no TensorFlow.

    Raises:
        ConfigError: unknown or missing keys, wrong types, impossible values.
    """
    errors = list(_schema_errors(config))
    if not errors:
        errors = list(_value_errors(config)) or list(_cross_errors(config))
    if errors:
        raise ConfigError("\n".join(errors))


def validate_batches(config: ConfigDict, mesh: Mapping[str, int]) -> None:
    """Checks training batches against the devices that share them. An evaluation batch may have any size.

    Args:
        config: a validated config.
        mesh: devices along data, fsdp and tensor. The devices of data x fsdp share a batch.

    Raises:
        ConfigError: a batch that these devices cannot share evenly. It names the meshes that can share all batches.
    """
    num_shards = mesh["data"] * mesh["fsdp"]
    wrong = []
    for name, dataset in config.datasets.items():
        multiple = num_shards * _rows_together(config, dataset)
        if not _can_share(config, dataset, num_shards):
            right = f"a multiple of {multiple}: {num_shards} devices share a batch{_why_together(config, dataset)}"
            wrong.append(f"config.datasets.{name}.batch_size={dataset.batch_size}: must be {right}")
    if wrong:
        serving = _serving_meshes(config, mesh)
        raise ConfigError("\n".join(f"{line}{serving}" for line in wrong))


def _can_share(config: ConfigDict, dataset: ConfigDict, num_shards: int) -> bool:
    """Whether so many devices can share a training batch evenly.

    Devices with one example each mix it with their neighbour's (preprocess/model_input.py).
    """
    rows, rest = divmod(dataset.batch_size, num_shards)
    of_one_example = rows == dataset.repeats and num_shards % 2 == 0 and rows % config.optimizer.grad_accum_steps == 0
    return not rest and (of_one_example or rows % _rows_together(config, dataset) == 0)


def _rows_together(config: ConfigDict, dataset: ConfigDict) -> int:
    """A device's part of a training batch is a multiple of this many rows, but for `_can_share`."""
    mixes = dataset.augment.mixup_alpha or dataset.augment.cutmix_alpha
    return math.lcm(config.optimizer.grad_accum_steps, dataset.repeats * (2 if mixes else 1))


def _why_together(config: ConfigDict, dataset: ConfigDict) -> str:
    why = ""
    if config.optimizer.grad_accum_steps > 1:
        why += f", in grad_accum_steps={config.optimizer.grad_accum_steps} pieces"
    if dataset.repeats > 1:
        why += f", each example in repeats={dataset.repeats} rows"
    if dataset.augment.mixup_alpha or dataset.augment.cutmix_alpha:
        why += ", mixed in pairs"
    return why


def _serving_meshes(config: ConfigDict, mesh: Mapping[str, int]) -> str:
    """The values of config.mesh.tensor with which these devices can share all training batches, as a clause."""
    if mesh["data"] * mesh["fsdp"] == 1:
        return ""
    num_devices, variant = math.prod(mesh.values()), variants.parse(config.model.variant)
    keep = "data" if config.mesh.fsdp == -1 else "fsdp"  # the axis whose size stays
    found = []
    for tensor in range(mesh["tensor"] + 1, variant.num_heads + 1):
        if variant.num_heads % tensor or variant.mlp_dim % tensor or num_devices % (tensor * mesh[keep]):
            continue
        num_shards = num_devices // tensor
        fsdp = mesh["fsdp"] if keep == "fsdp" else num_shards // mesh["data"]
        shared = all(_can_share(config, dataset, num_shards) for dataset in config.datasets.values())
        if shared and variant.width % fsdp == 0:
            found.append(tensor)
    if not found:
        return f"; no config.mesh.tensor serves, which must divide the {variant.num_heads} heads and the devices"
    rest = "" if -1 in (config.mesh.data, config.mesh.fsdp) else ", with config.mesh.data=-1"
    return f"; or fewer devices share it: config.mesh.tensor={' or '.join(map(str, found))}{rest}"


def flatten(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """("model.size_px", 224) for every leaf; an empty group is a leaf."""
    for key, value in config.items():
        if isinstance(value, ConfigDict) and len(value):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(config: ConfigDict) -> list[tuple[str, object, object]]:
    """(key, its value, its default) of all that is not as in the schema; a default is None where there is none.

    Lists and tuples count as the same: in JSON both are lists.
    """
    defaults = dict(flatten(_schema(config)))
    rows = [(key, current(key, value), defaults.get(key)) for key, value in flatten(config)]
    return [(key, value, default) for key, value, default in rows if _plain(value) != _plain(default)]


def current(key: str, value: object) -> object:
    """A value as it is written today."""
    declared = keys.find(schema.Run, key)
    return declared.current(value) if declared else value


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _schema(config: ConfigDict) -> ConfigDict:
    """The schema with an entry for each of the config's datasets."""
    filled = schema.get_config()
    for name in config.get("datasets", {}):
        filled.datasets[name] = schema.dataset()
    return filled


def _schema_errors(config: ConfigDict) -> Iterator[str]:
    for name in config.get("datasets", {}):
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):
            yield f"config.datasets.{name}: a dataset's name has only letters, digits and _"
    have, want = dict(flatten(config)), dict(flatten(_schema(config)))
    for key in sorted(have.keys() - want.keys()):
        yield f"config.{key}: unknown key{did_you_mean(key, list(want), 'config.')}"
    for key in sorted(want.keys() - have.keys()):
        yield f"config.{key}: missing; its default is {want[key]!r} (configs/KEYS.md)"
    for key in sorted(have.keys() & want.keys()):
        yield from _type_errors(f"config.{key}", current(key, have[key]), want[key])


def did_you_mean(key: str, known: Sequence[str], prefix: str) -> str:
    """A question to add to the error about an unknown key, with the keys that may have been meant; or "".

    Keys whose last name is the same come first: `learning_rate` for `optimizer.learning_rate`.
    """
    last = key.rpartition(".")[2]
    known = [*known, *sorted({one.rpartition(".")[0] for one in known} - {""})]  # the groups, too
    closeness = {one: _closeness(key, one) for one in known}
    meant = [one for one in known if one.rpartition(".")[2] == last]
    if not meant:
        nearest = max(known, key=lambda one: closeness[one], default="")
        meant = [nearest] if nearest and max(closeness[nearest]) >= _CLOSE else []
    meant = sorted(meant, key=lambda one: closeness[one], reverse=True)[:_SHOWN_KEYS]
    return f"; did you mean {' or '.join(prefix + one for one in meant)}?" if meant else ""


def _closeness(key: str, known: str) -> tuple[float, float]:
    """How alike two keys are, by the whole of them or by their last names, then by the whole: 0..1."""
    whole, last = (
        difflib.SequenceMatcher(None, *pair).ratio()
        for pair in ((key, known), (key.rpartition(".")[2], known.rpartition(".")[2]))
    )
    return max(whole, last), whole


def like(default: object, kind: type) -> str:
    """What a value of a key must be, by the type of its default; a placeholder has none."""
    if isinstance(default, ConfigDict):
        return f"a group of keys: {', '.join(default)}"
    return f"of type {kind.__name__}" + ("" if default is None else f", as in {default!r}")


def _type_errors(key: str, value: Any, default: Any) -> Iterator[str]:
    numbers = isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool)
    if value is None:  # `config_dict.placeholder`: left to whoever starts the run
        declared = keys.find(schema.Run, key.removeprefix("config."))
        right = f"; it must be {declared.rule.text}" if declared else ""
        yield f"{key}: must be given, as in --{key}=VALUE{right}"
    elif isinstance(default, tuple):
        if not isinstance(value, tuple) or any([*_type_errors(key, one, default[0])] for one in value):
            elements = {int: "integers", str: "names"}.get(type(default[0]), "finite numbers")
            yield f"{key}={value!r}: must be a tuple of {elements}, as in {default!r}"
    elif type(value) is not type(default) and not numbers:
        yield f"{key}={value!r}: must be {like(default, type(default))}"
    elif isinstance(default, float) and not abs(value) <= _FLOAT32_MAX:  # a NaN is not
        yield f"{key}={value!r}: must be a finite number, in float32 too"


def _value_errors(config: ConfigDict) -> Iterator[str]:
    for key, value in flatten(config):
        declared = keys.find(schema.Run, key)  # None: an empty group
        if declared and not declared.rule.holds(declared.current(value)):
            yield f"config.{key}={value!r}: must be {declared.rule.text}"
    try:
        variants.parse(config.model.variant)
    except ValueError as error:
        yield f"config.model.variant={config.model.variant!r}: {error}"


def _cross_errors(config: ConfigDict) -> Iterator[str]:
    if not len(config.datasets):
        yield "config.datasets: empty; a run needs at least one dataset (configs/datasets.py has a function for each)"
    if list(config.mesh.values()).count(-1) > 1:
        yield f"config.mesh={dict(config.mesh)}: -1 may stand once"
    for name, dataset in config.datasets.items():
        if dataset.list_of_files and not dataset.builder.startswith("list_of_files/"):
            given = f"config.datasets.{name}.builder={dataset.builder!r}"
            yield f"{given}: must be list_of_files/NAME, because list_of_files is given"
    yield from _task_errors(config)
    yield from _mix_errors(config)
    yield from _shared_clips_errors(config)
    yield from _model_errors(config)
    yield from _registry_errors("loggers", config.loggers, plugins.LOGGERS)
    wrong = list(_registry_errors("evaluators", config.evaluators, plugins.EVALUATORS))
    yield from wrong or _best_metric_errors(config)


def _registry_errors(key: str, names: Sequence[str], known: Mapping[str, plugins.Entry]) -> Iterator[str]:
    first = f", {plugins.ACCURACY!r} first" if plugins.ACCURACY in known else ""
    in_order = not first or tuple(names[:1]) == (plugins.ACCURACY,)
    if len(set(names)) < len(names) or not known.keys() >= set(names) or not in_order:
        yield f"config.{key}={names!r}: must be a tuple of {', '.join(map(repr, known))}{first}, each at most once"


def _task_errors(config: ConfigDict) -> Iterator[str]:
    for name, dataset in config.datasets.items():
        heads = HeadList.parse(dataset.heads)
        if bool(heads) != registry.of(dataset).has_heads:
            right = "must name the heads, such as 'verb:97, noun:300'" if not heads else "is for task='multihead'"
            yield f"config.datasets.{name}.heads={dataset.heads!r}: {right}; task is {dataset.task!r}"
        total = sum(head.num_classes for head in heads)
        if heads and dataset.num_classes not in (0, total):
            given = f"config.datasets.{name}.num_classes={dataset.num_classes}"
            yield f"{given}: its heads have {total} classes; 0 is allowed"


def _mix_errors(config: ConfigDict) -> Iterator[str]:
    try:
        if len(config.datasets):
            mixture.Mixture.of(config.datasets, config.plan, config.seed)
    except ValueError as error:
        yield f"config.datasets.*.weight_schedule: {error}"
    scales = {name: dataset.learning_rate_scale for name, dataset in config.datasets.items()}
    if config.plan == "joint" and len(set(scales.values())) > 1:
        given = ", ".join(f"{name} {scale:g}" for name, scale in scales.items())
        yield (
            f"config.datasets.*.learning_rate_scale: {given}: must be the same for all, because with "
            "config.plan='joint' a step has one update for all datasets; loss_weight gives each its share of it"
        )


def _shared_clips_errors(config: ConfigDict) -> Iterator[str]:
    own = ("head", "loss_weight", "same_clips_as")
    for name, dataset in config.datasets.items():
        if not (source := dataset.same_clips_as):
            continue
        given = f"config.datasets.{name}.same_clips_as={source!r}"
        others = [one for one in config.datasets if one != name and not config.datasets[one].same_clips_as]
        if source not in others:
            yield f"{given}: must be one of the datasets with clips of their own: {', '.join(others) or 'none'}"
            continue
        if config.plan != "joint":
            yield f"{given}: config.plan={config.plan!r} has one dataset per step; it must be 'joint'"
        here, there = (dict(flatten(one)) for one in (dataset, config.datasets[source]))
        for key in here:
            if key.partition(".")[0] not in own and here[key] != there[key]:
                yield f"config.datasets.{name}.{key}={here[key]!r}: {given} has {there[key]!r}; they must be equal"


def _model_errors(config: ConfigDict) -> Iterator[str]:
    variant, size_px, tensor = variants.parse(config.model.variant), config.model.size_px, config.mesh.tensor
    if config.model.keep_heads and not config.model.init_from:
        yield "config.model.keep_heads=True: needs config.model.init_from, the --workdir of the run whose heads stay"
    if size_px % variant.patch_px:
        yield f"config.model.size_px={size_px}: must be a multiple of the patch, {variant.patch_px}"
    for name, dataset in config.datasets.items():
        attentive = (dataset.head.kind or config.model.head) == "attentive"
        if attentive and dataset.head.num_heads and variant.width % dataset.head.num_heads:
            yield (
                f"config.datasets.{name}.head.num_heads={dataset.head.num_heads}: must divide the width "
                f"{variant.width} of {config.model.variant}, or be 0"
            )
    if tensor > 0 and variant.num_heads % tensor:
        yield f"config.mesh.tensor={tensor}: must divide the {variant.num_heads} heads of {config.model.variant}"


def _best_metric_errors(config: ConfigDict) -> Iterator[str]:
    evaluated = [name for name, dataset in config.datasets.items() if dataset.eval_split]
    if any([*_task_errors(config)]):
        return
    known = registry.metrics_of(config) or [str(schema.Run.best_metric.default)]
    for name in evaluated:
        entries = [plugins.EVALUATORS[evaluator] for evaluator in config.evaluators]
        measuring = [entry for entry in entries if entry.measures(registry.of(config.datasets[name]).main_metric)]
        known += [f"{name}/{kind}" for entry in measuring for kind in entry.metrics]
    if config.best_metric not in known:
        yield f"config.best_metric={config.best_metric!r}: must be one of {', '.join(known)}"
    if config.early_stop_evals and not evaluated:
        yield f"config.early_stop_evals={config.early_stop_evals}: no dataset is evaluated (eval_split); it must be 0"
