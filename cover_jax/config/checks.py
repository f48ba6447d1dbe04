"""One check of a config before anything heavy happens: against the schema, then value by value.

Whatever is wrong is reported at once, each line with the key, its value and what would be right.
"""

import difflib
import fnmatch
import math
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from ml_collections import ConfigDict

from cover_jax.config import schema
from cover_jax.errors import ConfigError
from cover_jax.models import variants


def _positive(value) -> bool:
    return value > 0


def _not_negative(value) -> bool:
    return value >= 0


def _share(value) -> bool:
    return 0 <= value <= 1


def _below_one(value) -> bool:
    return 0 <= value < 1


def _one_of(*choices: str) -> tuple[Callable, str]:
    return lambda value: value in choices, "one of " + ", ".join(repr(choice) for choice in choices)


def _pair(value) -> bool:
    return len(value) == 2 and 0 < value[0] <= value[1]


def _regex(value) -> bool:
    try:
        re.compile(value)
    except re.error:
        return False
    return True


_POSITIVE = (_positive, "greater than 0")
_NOT_NEGATIVE = (_not_negative, "0 or greater")
_SHARE = (_share, "from 0 to 1")
_BELOW_ONE = (_below_one, "from 0 to below 1")
_REGEX = (_regex, "a regular expression")
_RANGE = (_pair, "two numbers, 0 < first <= second")
_STEPS = (lambda value: len(value) == 2 and 0 <= value[0] <= value[1], "two steps, 0 <= first <= second")
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_CLOSE = 0.6  # how alike a key must be to an unknown one to be named, 0..1
_SHOWN_KEYS = 3
_RGB = (lambda value: len(value) == 3, "three numbers, for red, green and blue")

# Key pattern -> (test, what would be right). The first pattern that fits a key decides.
_RULES = {
    "seed": (lambda value: 0 <= value < 2**32, "from 0 to 2**32 - 1"),
    "steps": _POSITIVE,
    "*_every_steps": _POSITIVE,
    "keep_checkpoints": (lambda value: value >= 2, "2 or greater: one to go back to where the newest is damaged"),
    "early_stop_evals": _NOT_NEGATIVE,
    "max_nonfinite_steps": _POSITIVE,
    "max_loss_ratio": (lambda value: value == 0 or value > 1, "0 or greater than 1"),
    "loss_window_steps": _POSITIVE,
    "max_rollbacks": _NOT_NEGATIVE,
    "profile_steps": _STEPS,
    "plan": _one_of("interleave", "joint"),
    "datasets.*.builder": (lambda value: re.fullmatch(r"[a-z0-9_]+(/[\w.\-]+)?", value), "'name' or 'name/config'"),
    "datasets.*.train_split": (bool, "the name of a split"),
    "datasets.*.frames_feature": (bool, "the name of a feature"),
    "datasets.*.num_classes": _NOT_NEGATIVE,
    "datasets.*.num_frames": _POSITIVE,
    "datasets.*.sample_fps": _NOT_NEGATIVE,
    "datasets.*.canvas_px": (lambda value: len(value) == 2 and min(value) > 0, "height, width, both greater than 0"),
    "datasets.*.weight": _POSITIVE,
    "datasets.*.loss_weight": _POSITIVE,
    "datasets.*.batch_size": _POSITIVE,
    "datasets.*.repeats": _POSITIVE,
    "datasets.*.eval_batch_size": _POSITIVE,
    "datasets.*.eval_clips": _POSITIVE,
    "datasets.*.eval_crops": (lambda value: value in (1, 3), "1 or 3"),
    "datasets.*.label_smoothing": _BELOW_ONE,
    "datasets.*.augment.crop": _one_of("area", "scale", "none"),
    "datasets.*.augment.crop_range": _RANGE,
    "datasets.*.augment.crop_aspect": _RANGE,
    "datasets.*.augment.*_prob": _SHARE,
    "datasets.*.augment.color_strength": _SHARE,
    "datasets.*.augment.randaugment_layers": (lambda value: 0 <= value <= 14, "from 0 to 14: each is compiled"),
    "datasets.*.augment.randaugment_magnitude": (lambda value: 0 <= value <= 30, "from 0 to 30"),
    "datasets.*.augment.*_alpha": _NOT_NEGATIVE,
    "model.size_px": _POSITIVE,
    "model.num_frames": _POSITIVE,
    "model.init_from": (
        lambda value: re.fullmatch(r"(?!\w+://).*|gs://.+|hf://[^/]+/.+", value),
        "'', a path, 'gs://...' or 'hf://ORG/REPO[@REVISION][/FILE]'",
    ),
    "model.head": _one_of("linear", "mlp"),
    "model.drop_path": _BELOW_ONE,
    "model.temporal_init": _one_of("zeros", "xavier"),
    "model.time_embed_std": _NOT_NEGATIVE,
    "model.gelu": _one_of("exact", "tanh"),
    "model.layer_norm_eps": _POSITIVE,
    "model.dtype": _one_of("bfloat16", "float32"),
    "model.remat": _one_of("full", "attention", "none"),
    "model.attention": _one_of("auto", "einsum", "fused"),
    "model.pixel_mean": _RGB,
    "model.pixel_std": (lambda value: len(value) == 3 and min(value) > 0, "three numbers greater than 0"),
    "optimizer.name": _one_of("sgd", "adamw"),
    "optimizer.learning_rate": _POSITIVE,
    "optimizer.layer_decay": (lambda value: 0 < value <= 1, "greater than 0, at most 1"),
    "optimizer.momentum": _BELOW_ONE,
    "optimizer.b?": _BELOW_ONE,
    "optimizer.ema_decay": _BELOW_ONE,
    "optimizer.no_decay": _REGEX,
    "optimizer.frozen": _REGEX,
    "optimizer.grad_accum_steps": _POSITIVE,
    "optimizer.*": _NOT_NEGATIVE,
    "mesh.*": (lambda value: value == -1 or value > 0, "-1 or greater than 0"),
    "timeouts.*": _POSITIVE,
    "input.threads": _NOT_NEGATIVE,
    "input.prefetch_batches": _POSITIVE,
    "input.max_bad_share": _SHARE,
    "input.leaks": _one_of("exclude", "report", "ignore"),
}


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


def validate_batches(config: ConfigDict, num_shards: int) -> None:
    """Checks batch sizes against the devices that share a batch (mesh axes data x fsdp).

    Raises:
        ConfigError: a batch that these devices cannot share evenly.
    """
    accum = config.optimizer.grad_accum_steps
    errors = []
    for name, dataset in config.datasets.items():
        mixes = dataset.augment.mixup_alpha or dataset.augment.cutmix_alpha
        train_multiple = num_shards * math.lcm(accum, dataset.repeats * (2 if mixes else 1))
        for key, multiple in (("batch_size", train_multiple), ("eval_batch_size", num_shards)):
            size = dataset[key]
            if size % multiple:
                right = f"a multiple of {multiple}: {num_shards} devices share a batch"
                if key == "batch_size" and accum > 1:
                    right += f", in grad_accum_steps={accum} pieces"
                if key == "batch_size" and dataset.repeats > 1:
                    right += f", each example in repeats={dataset.repeats} rows"
                if key == "batch_size" and mixes:
                    right += ", mixed in pairs"
                errors.append(f"config.datasets.{name}.{key}={size}: must be {right}")
    if errors:
        raise ConfigError("\n".join(errors))


def flatten(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """("model.size_px", 224) for every leaf; an empty group is a leaf."""
    for key, value in config.items():
        if isinstance(value, ConfigDict) and len(value):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(config: ConfigDict) -> list[tuple[str, object, object]]:
    """(key, its value, its default) of all that is not as in configs/common.py; a default is None where there is none.

    Lists and tuples count as the same: in JSON both are lists.
    """
    defaults = dict(flatten(_schema(config)))
    rows = [(key, value, defaults.get(key)) for key, value in flatten(config)]
    return [(key, value, default) for key, value, default in rows if _plain(value) != _plain(default)]


def _plain(value):
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
    for key in have.keys() - want.keys():
        yield f"config.{key}: unknown key{did_you_mean(key, list(want), 'config.')}"
    for key in want.keys() - have.keys():
        yield f"config.{key}: missing; its default is {want[key]!r} (configs/common.py)"
    for key in have.keys() & want.keys():
        yield from _type_errors(f"config.{key}", have[key], want[key])


def did_you_mean(key: str, known: Sequence[str], prefix: str) -> str:
    """A question to add to the error about an unknown key, with the keys that may have been meant; or "".

    Keys whose last name is the same come first: `learning_rate` for `optimizer.learning_rate`.
    """
    last = key.rpartition(".")[2]
    known = [*known, *sorted({one.rpartition(".")[0] for one in known} - {""})]  # the groups, too
    closeness = {one: _closeness(key, one) for one in known}
    meant = [one for one in known if one.rpartition(".")[2] == last]
    if not meant:
        nearest = max(known, key=closeness.get, default="")
        meant = [nearest] if nearest and max(closeness[nearest]) >= _CLOSE else []
    meant = sorted(meant, key=closeness.get, reverse=True)[:_SHOWN_KEYS]
    return f"; did you mean {' or '.join(prefix + one for one in meant)}?" if meant else ""


def _closeness(key: str, known: str) -> tuple[float, float]:
    """How alike two keys are, by the whole of them or by their last names, then by the whole: 0..1."""
    whole, last = (
        difflib.SequenceMatcher(None, *pair).ratio()
        for pair in ((key, known), (key.rpartition(".")[2], known.rpartition(".")[2]))
    )
    return max(whole, last), whole


def like(default, kind: type) -> str:
    """What a value of a key must be, by the type of its default; a placeholder has none."""
    if isinstance(default, ConfigDict):
        return f"a group of keys: {', '.join(default)}"
    return f"of type {kind.__name__}" + ("" if default is None else f", as in {default!r}")


def _type_errors(key: str, value, default) -> Iterator[str]:
    numbers = isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool)
    if value is None:  # `config_dict.placeholder`: left to whoever starts the run
        yield f"{key}: must be given, as in --{key}=VALUE; configs/common.py says what it may be"
    elif isinstance(default, tuple):
        if not isinstance(value, tuple) or any([*_type_errors(key, one, default[0])] for one in value):
            numbers = "integers" if isinstance(default[0], int) else "finite numbers"
            yield f"{key}={value!r}: must be a tuple of {numbers}, as in {default!r}"
    elif type(value) is not type(default) and not numbers:
        yield f"{key}={value!r}: must be {like(default, type(default))}"
    elif isinstance(default, float) and not abs(value) <= _FLOAT32_MAX:  # a NaN is not
        yield f"{key}={value!r}: must be a finite number, in float32 too"


def _value_errors(config: ConfigDict) -> Iterator[str]:
    for key, value in flatten(config):
        pattern = next((p for p in _RULES if fnmatch.fnmatchcase(key, p)), None)
        if pattern is None:
            continue
        test, right = _RULES[pattern]
        if not test(value):
            yield f"config.{key}={value!r}: must be {right}"
    try:
        variants.parse(config.model.variant)
    except ValueError as error:
        yield f"config.model.variant={config.model.variant!r}: {error}"


def _cross_errors(config: ConfigDict) -> Iterator[str]:
    if not len(config.datasets):
        yield "config.datasets: empty; a run needs at least one dataset (configs/datasets.py has a function for each)"
    warmup_steps = config.optimizer.warmup_steps
    if warmup_steps >= config.steps:
        yield f"config.optimizer.warmup_steps={warmup_steps}: must be below config.steps={config.steps}"
    if list(config.mesh.values()).count(-1) > 1:
        yield f"config.mesh={dict(config.mesh)}: -1 may stand once"
    yield from _model_errors(config)
    yield from _best_metric_errors(config)


def _model_errors(config: ConfigDict) -> Iterator[str]:
    variant, size_px, tensor = variants.parse(config.model.variant), config.model.size_px, config.mesh.tensor
    if config.model.keep_heads and not config.model.init_from:
        yield "config.model.keep_heads=True: needs config.model.init_from, the --workdir of the run whose heads stay"
    if size_px % variant.patch_px:
        yield f"config.model.size_px={size_px}: must be a multiple of the patch, {variant.patch_px}"
    if tensor > 0 and variant.num_heads % tensor:
        yield f"config.mesh.tensor={tensor}: must divide the {variant.num_heads} heads of {config.model.variant}"


def _best_metric_errors(config: ConfigDict) -> Iterator[str]:
    evaluated = [name for name, dataset in config.datasets.items() if dataset.eval_split]
    known = ["mean_top1"] + [f"{name}/{kind}" for name in evaluated for kind in ("top1", "top5", "mean_class")]
    if config.best_metric not in known:
        yield f"config.best_metric={config.best_metric!r}: must be one of {', '.join(known)}"
    if config.early_stop_evals and not evaluated:
        yield f"config.early_stop_evals={config.early_stop_evals}: no dataset is evaluated (eval_split); it must be 0"
