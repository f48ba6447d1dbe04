"""A study's config -> its runs, each with its complete config and its folder."""

import copy
import dataclasses
import itertools
import math
import pathlib
import re
from collections.abc import Sequence

from ml_collections import ConfigDict

from cover_jax.config import checks
from cover_jax.errors import ConfigError
from cover_jax.study import schema

_SLICE = re.compile(r"(\w+)\[(\d*):(\d*)\]")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
        setting: name of its setting.
        seed: seed of its replicate.
        draw: data draw of its replicate.
        config: a valid config as in configs/common.py.
        folder: its workdir.
        start: folder of the run that it starts from; None: it starts from no run.
    """

    setting: str
    seed: int
    draw: int
    config: ConfigDict
    folder: pathlib.Path
    start: pathlib.Path | None

    def __str__(self):
        return f"{self.setting}, seed {self.seed}, draw {self.draw}"


def check(study: ConfigDict) -> None:
    """Refuses an invalid study.

    Raises:
        ConfigError: it is not as cover_jax/study/schema.py says.
    """
    if errors := _errors(study):
        raise ConfigError("\n".join(errors))


def quick(study: ConfigDict) -> ConfigDict:
    """The study with only its quick settings and quick replicates.

    Raises:
        ConfigError: it has no quick settings.
    """
    if not study.quick_settings:
        raise ConfigError(f"--quick: quick_settings has none of {', '.join(study.settings)}")
    found = only(study, study.quick_settings)
    found.seeds, found.draws = (values[: study.quick_replicates] for values in (study.seeds, study.draws))
    return found


def only(study: ConfigDict, names: Sequence[str]) -> ConfigDict:
    """The study with only these settings, and the settings that they start from.

    Raises:
        ConfigError: a setting does not exist.
    """
    if unknown := [name for name in names if name not in study.settings]:
        there = ", ".join(study.settings)
        raise ConfigError(f"settings: there is no {', '.join(unknown)}; there are {there}")
    kept = set(names)
    for name in reversed(list(study.settings)):
        if name in kept:
            kept.add(study.settings[name].start)
    found = copy.deepcopy(study).unlock()
    found.settings = ConfigDict(sort_keys=False)  # the copy's are sorted
    for name in study.settings:
        if name in kept:
            found.settings[name] = study.settings[name]
    found.differences = {
        name: tuple(other for other in others if other in kept)
        for name, others in study.differences.items()
        if name in kept
    }
    found.quick_settings = tuple(name for name in study.quick_settings if name in kept)
    return found


def runs(study: ConfigDict, workdir: pathlib.Path) -> list[Run]:
    """All runs, replicate by replicate, each after the run that it starts from.

    Raises:
        ConfigError: the study does not follow cover_jax/study/schema.py, or the config of a run is invalid.
    """
    check(study)
    replicates = zip(study.seeds, study.draws, strict=True)
    return [_run(study, name, seed, draw, workdir) for seed, draw in replicates for name in study.settings]


def _run(study: ConfigDict, name: str, seed: int, draw: int, workdir: pathlib.Path) -> Run:
    def folder(setting: str) -> pathlib.Path:
        return workdir / "runs" / setting / f"seed{seed}_draw{draw}"

    start = folder(study.settings[name].start) if study.settings[name].start else None
    config = _config(study, name, seed, draw)
    if start:
        config.model.init_from = str(start)
    try:
        checks.validate(config)
    except ConfigError as error:
        raise ConfigError("\n".join(f"settings.{name}: {line}" for line in str(error).split("\n"))) from None
    if overlapping := _overlapping(study, config):
        raise ConfigError(f"settings.{name}, draw {draw}: {overlapping}; use other draws")
    return Run(name, seed, draw, config, folder(name), start)


def _config(study: ConfigDict, name: str, seed: int, draw: int) -> ConfigDict:
    setting, config = study.settings[name], copy.deepcopy(study.run).unlock()
    for dataset in list(config.datasets):
        if dataset not in setting.datasets:
            del config.datasets[dataset]
        elif examples := study.examples_per_draw[dataset]:
            config.datasets[dataset].train_split = f"train[{draw * examples}:{(draw + 1) * examples}]"
        elif left_out := study.left_out_per_draw.get(dataset):
            parts = f"train[{(draw + 1) * left_out}:]", f"train[:{draw * left_out}]"
            config.datasets[dataset].train_split = "+".join(parts[: 2 if draw else 1])
    config.seed, config.steps = seed, setting.steps
    try:
        config.update(setting.changes)
    except TypeError as error:
        raise ConfigError(f"settings.{name}.changes: {error}") from None
    return config


def _overlapping(study: ConfigDict, config: ConfigDict) -> str:
    """Names two datasets of a run whose training examples overlap although draws must be disjoint; otherwise ""."""
    for (one, first), (other, second) in itertools.combinations(config.datasets.items(), 2):
        drawn = study.examples_per_draw[one] or study.examples_per_draw[other]
        if first.builder != second.builder or not drawn:
            continue
        pairs = itertools.product(_slices(first.train_split), _slices(second.train_split))
        if any(split == of_other and max(begin, begin_other) < min(end, end_other)
               for (split, begin, end), (of_other, begin_other, end_other) in pairs):  # fmt: skip
            return f"{first.train_split} of {one} overlaps {second.train_split} of {other}, both of {first.builder}"
    return ""


def _slices(expression: str) -> list[tuple[str, int, float]]:
    """Split, first example and end of each slice of an expression such as "train[30:]+train[:20]"."""
    found = [_SLICE.fullmatch(part) for part in expression.split("+")]
    return [(m[1], int(m[2] or 0), int(m[3]) if m[3] else math.inf) for m in found if m]


def _errors(study: ConfigDict) -> list[str]:
    """Errors of the study itself, as lines. The configs of its runs are checked separately."""
    known = schema.get_config()
    if wrong := set(study) ^ set(known):
        return [f"{key}: {'unknown' if key in study else 'missing'}; see cover_jax/study/schema.py" for key in wrong]
    errors = []
    if len(study.seeds) != len(study.draws) or not study.seeds:
        errors.append(f"seeds={study.seeds}, draws={study.draws}: must be equally many, at least one")
    elif len(set(zip(study.seeds, study.draws, strict=True))) < len(study.seeds):
        errors.append(f"seeds={study.seeds}, draws={study.draws}: two replicates are the same")
    if study.quick_replicates < 1:
        errors.append(f"quick_replicates={study.quick_replicates}: must be at least 1")
    errors += _draw_errors(study)
    if not len(study.settings):
        errors.append("settings: empty; a study needs at least one")
    for i, name in enumerate(study.settings):
        errors += _setting_errors(study, name, list(study.settings)[:i])
    for key, names in {"quick_settings": study.quick_settings, "differences": study.differences}.items():
        errors += [f"{key}: no setting is called {name!r}" for name in names if name not in study.settings]
    return errors or _difference_errors(study)


def _draw_errors(study: ConfigDict) -> list[str]:
    have = set(study.run.datasets)
    errors = [f"examples_per_draw.{name}: missing; 0 for all of them" for name in have - set(study.examples_per_draw)]
    for key in ("examples_per_draw", "left_out_per_draw"):
        unknown = set(study[key]) - have
        errors += [f"{key}.{name}: not in run.datasets: {', '.join(study.run.datasets)}" for name in unknown]
    for name in study.left_out_per_draw:
        if study.examples_per_draw.get(name, 0):
            errors.append(f"left_out_per_draw.{name}: examples_per_draw.{name} must be 0")
    return errors


def _difference_errors(study: ConfigDict) -> list[str]:
    errors = []
    for name, others in study.differences.items():
        for other in others:
            if other not in study.settings:
                errors.append(f"differences.{name}: no setting is called {other!r}")
            elif not set(study.settings[name].datasets) & set(study.settings[other].datasets):
                errors.append(f"differences.{name}: {other!r} has none of its datasets")
    return errors


def _setting_errors(study: ConfigDict, name: str, before: list[str]) -> list[str]:
    setting, have = study.settings[name], set(study.run.datasets)
    wrong = set(setting) ^ set(schema.setting("", (), 1))
    errors = [f"settings.{name}.{key}: unknown or missing; see cover_jax/study/schema.py" for key in wrong]
    if wrong:
        return errors
    if unknown := sorted(set(setting.datasets) - have):
        errors.append(f"settings.{name}.datasets: {', '.join(unknown)} not in run.datasets: {', '.join(have)}")
    if unused := sorted(set(setting.changes.get("datasets", ())) - set(setting.datasets)):
        errors.append(f"settings.{name}.changes.datasets: {', '.join(unused)} not in settings.{name}.datasets")
    if setting.start and setting.start not in before:
        errors.append(f"settings.{name}.start={setting.start!r}: must be a setting before it: {', '.join(before)}")
    for other in before:
        both = set(setting.datasets) & set(study.settings[other].get("datasets", ()))
        if both and setting.label == study.settings[other].get("label"):
            errors.append(f"settings.{name}.label={setting.label!r}: settings.{other} has it, in the same tables")
    return errors
