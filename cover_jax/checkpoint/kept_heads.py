"""Heads of another run that a new run keeps unchanged beside its own heads: `config.model.keep_heads`.

They come from the run that `config.model.init_from` names. Every checkpoint of the new run contains them, and they are
never trained. If the backbone is frozen too, their logits stay identical, bit for bit.
"""

import shlex
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from cover_jax.checkpoint import init_from, metadata, restore
from cover_jax.checkpoint.layout import Meta
from cover_jax.config import keys, schema
from cover_jax.errors import ConfigError
from cover_jax.models.pretrained.errors import PretrainedError

_CHANGES_OF_LOGITS = (keys.Changes.SHAPE, keys.Changes.FUNCTION, keys.Changes.ROUNDING)


def find_kept_heads(
    config: ConfigDict, saved: Meta | None, class_names: Mapping[str, Sequence[str]]
) -> dict[str, metadata.KeptHead]:
    """The kept heads of a run that continues, or of a new run.

    Args:
        config: the whole config.
        saved: metadata of its newest checkpoint (`metadata.make_meta`); None: there is no checkpoint yet.
        class_names: dataset name -> its classes, in order.

    Raises:
        ConfigError: there is no head to keep, the heads need another model, or a dataset has the name of a kept head
            but other classes.
    """
    if saved is not None:
        # If a dataset of this name was added (config.allow_changed_mix), its head is trained from now on.
        return {name: _kept(saved, name) for name in saved.get("kept", ()) if name not in class_names}
    return _heads_of_source(config, class_names) if config.model.keep_heads else {}


def _heads_of_source(config: ConfigDict, class_names: Mapping[str, Sequence[str]]) -> dict[str, metadata.KeptHead]:
    model, source = config.model, config.model.init_from
    try:
        found = init_from.find_run(source)
        if found is None:
            raise FileNotFoundError("it is not the --workdir of a run of this project")
        _, meta, _ = restore.about(*found)
    except (FileNotFoundError, PretrainedError) as error:
        raise ConfigError(f"config.model.keep_heads: nothing to keep in {source}: {error}") from error
    _check_model(source, metadata.config_of(meta).model, model)
    for name in class_names.keys() & meta["heads"].keys():
        _check_classes(source, name, meta["heads"][name], class_names[name])
        _check_task(source, name, metadata.task_of(meta, name), config.datasets[name].task)
    return {name: _kept(meta, name) for name in meta["heads"] if name not in class_names}


def _kept(meta: Meta, name: str) -> metadata.KeptHead:
    datasets = meta["config"]["datasets"] | meta.get("kept", {})
    storage = meta.get("storage", {}).get(name, {})  # of a checkpoint of 0.2.0 or earlier it is not known
    return metadata.KeptHead(tuple(meta["heads"][name]), datasets[name], storage)


def _check_model(source: str, before: ConfigDict, now: ConfigDict) -> None:
    """Refuses a model in which kept heads would give other logits."""
    if changed := keys.differing(schema.Model, before, now, *_CHANGES_OF_LOGITS):
        flags = [f"--config.model.{key}={shlex.quote(str(_plain(before[key])))}" for key in changed]
        raise ConfigError(
            f"config.model.keep_heads: the heads of {source} need the model that they were trained with: "
            + " ".join(flags)
        )


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value  # in JSON a tuple is a list


def _check_task(source: str, name: str, before: str, now: str) -> None:
    """Refuses a dataset whose name is that of a kept head with another task, for the same reason."""
    if before != now:
        raise ConfigError(
            f"config.datasets.{name}.task={now!r}: {source} has a head of this name with the task {before!r}; prepare "
            "the new data under another --name"
        )


def _check_classes(source: str, name: str, before: Sequence[str], now: Sequence[str]) -> None:
    """Refuses a dataset whose name is that of a kept head with other classes: the kept head would be lost."""
    if different := sorted(set(before) ^ set(now)):
        raise ConfigError(
            f"config.datasets.{name}: {source} has a head of this name with other classes ({len(before)} there, "
            f"{len(now)} here; one of them alone has {different[0]!r}); prepare the new data under another --name"
        )
