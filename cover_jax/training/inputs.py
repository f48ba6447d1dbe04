"""The data of a run: its splits, the examples excluded as leaks, and a stream of batches from each split."""

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cover_jax.checkpoint import metadata
from cover_jax.errors import ConfigError
from cover_jax.fault_tolerance import process, statements
from cover_jax.parallel import hosts, sharding
from cover_jax.parallel.hosts import print_on_host0
from cover_jax.preprocess import frame_size
from cover_jax.tasks import registry
from cover_jax.tasks.head_list import HeadList
from data_pipelines.doctor import frame_sizes as frame_sizes_of
from data_pipelines.leaks import facts, kept, search
from data_pipelines.prepare import build
from data_pipelines.stream import mixture, pipeline, records


def open_splits(config: ConfigDict) -> tuple[dict, dict]:
    """The training and evaluation splits of all datasets. Self-contained data is prepared first."""
    for name in config.datasets:
        prepare_if_self_contained(config, name)
    opened = {name: open_dataset(config, name) for name in mixture.by_clip_source(config.datasets)}
    opened = {name: opened[mixture.clip_source(config.datasets, name)] for name in config.datasets}
    train_splits = {name: train for name, (train, _) in opened.items()}
    eval_splits = {name: evaluated for name, (_, evaluated) in opened.items() if evaluated}
    agree_on_data(train_splits, eval_splits)
    return train_splits, eval_splits


def agree_on_data(train_splits: dict, eval_splits: dict) -> None:
    """Checks that all hosts have opened the same data (`hosts.agree`), and says what cannot be compared."""
    splits = {"training": train_splits, "validation": eval_splits}
    hosts.agree(statements.of_data(splits))
    of_hosts = [json.loads(text) for text in hosts.exchange(json.dumps(statements.unknown_records(splits)))]
    for what in dict.fromkeys(what for found in of_hosts for what in found):
        lacking = [str(host) for host, found in enumerate(of_hosts) if what in found]
        if len(of_hosts) > 1:
            print_on_host0(
                f"whether all hosts read the same records in the {what} cannot be checked: host {', '.join(lacking)} "
                "has no checksums of them (prepared by an earlier version, in a bucket); their number and sizes agree"
            )


def prepare_if_self_contained(config: ConfigDict, name: str) -> None:
    """Prepares a dataset that needs no files or has a list of them, on the first host; the other hosts wait for it.

    Raises:
        ConfigError: its list of files cannot be used.
    """
    builder, list_path = config.datasets[name].builder, config.datasets[name].list_of_files
    if list_path and jax.process_index() == 0:
        try:
            build.prepare_from_list(builder, list_path, config.data_dir)
        except (ValueError, FileNotFoundError, RuntimeError) as error:
            raise ConfigError(f"config.datasets.{name}.list_of_files={list_path}: {error}") from error
    elif list_path:
        build.wait_until_prepared(builder, config.data_dir)
    elif jax.process_index() == 0:
        build.prepare_if_self_contained(builder, config.data_dir)
    else:  # not a collective: on CPUs collectives time out after 30 s
        build.wait_if_self_contained(builder, config.data_dir)


def open_dataset(config: ConfigDict, name: str) -> tuple[records.Split, records.Split | None]:
    """The training split of a dataset, and its evaluation split if it has one.

    Raises:
        DatasetNotPreparedError, FileNotFoundError, OSError: as in `records.open_split`.
        ConfigError: the data has no such split, feature or number of classes. The message names the key.
    """
    dataset = config.datasets[name]
    train, evaluated = _open_split(config, name, "train_split"), None
    found = len(train.class_names)
    if dataset.num_classes and dataset.num_classes != found:
        raise ConfigError(
            f"config.datasets.{name}.num_classes={dataset.num_classes}: the prepared {dataset.builder} has {found}"
        )
    _check_task(name, dataset, train)
    if records.media_feature(train, dataset.frames_feature) not in train.features:
        raise ConfigError(
            f"config.datasets.{name}.frames_feature={dataset.frames_feature!r}: the prepared {dataset.builder} has "
            f"{', '.join(train.features)}"
        )
    if dataset.eval_split:
        evaluated = _open_split(config, name, "eval_split")
    return train, evaluated


def _check_task(name: str, dataset: ConfigDict, train: records.Split) -> None:
    """Refuses a task that the labels of the prepared data do not have."""
    task, found = registry.of(dataset), HeadList.of_names(train.class_names)
    if task.several_labels != train.several_labels:
        has = "several labels" if train.several_labels else "one label"
        right = "multiclass" if not train.several_labels else "multihead" if len(found) > 1 else "multilabel"
        raise ConfigError(
            f"config.datasets.{name}.task={dataset.task!r}: the prepared {dataset.builder} has {has} per example; "
            f"it must be {right!r}"
        )
    given = [(head.name, head.num_classes) for head in HeadList.parse(dataset.heads)]
    if task.has_heads and list(found.items()) != given:
        heads = ", ".join(f"{head}:{count}" for head, count in found.items()) or "no heads"
        raise ConfigError(f"config.datasets.{name}.heads={dataset.heads!r}: the prepared {dataset.builder} has {heads}")


def _open_split(config: ConfigDict, name: str, key: str) -> records.Split:
    dataset = config.datasets[name]
    try:
        return records.open_split(dataset.builder, dataset[key], config.data_dir)
    except ValueError as error:
        raise ConfigError(f"config.datasets.{name}.{key}={dataset[key]!r}: {error}") from error


def contents(train_splits: dict, eval_splits: dict) -> dict[str, dict[str, Any]]:
    """Dataset -> "train" and "validation" -> what the records of that split are, as JSON for a checkpoint."""
    by_purpose = {"train": train_splits, "validation": eval_splits}
    return {
        name: {purpose: splits[name].content.to_json() for purpose, splits in by_purpose.items() if name in splits}
        for name in train_splits
    }


def without_leaks(
    config: ConfigDict, train_splits: dict, eval_splits: dict, saved_data: Mapping[str, Mapping] | None = None
) -> tuple[dict, list[dict]]:
    """The training splits without the examples that any dataset validates on, and the leaks found, as JSON.

    Args:
        config: the whole config.
        train_splits, eval_splits: dataset -> its opened split.
        saved_data: what the checkpoint says of the data (`metadata.make_meta`), if the run continues.

    Raises:
        ValueError: no example of a split is left, or hosts see different data.
    """
    if config.input.leaks == "ignore":
        return train_splits, []
    if len(sources := mixture.by_clip_source(config.datasets)) < len(config.datasets):
        own_train, own_eval = ({n: s for n, s in of.items() if n in sources} for of in (train_splits, eval_splits))
        alone = config.copy_and_resolve_references()
        with alone.unlocked():
            for name in set(config.datasets) - set(sources):
                del alone.datasets[name]
        own_train, summaries = without_leaks(alone, own_train, own_eval, saved_data)
        return {name: own_train[mixture.clip_source(config.datasets, name)] for name in train_splits}, summaries
    found = _wait_for_leaks() if jax.process_index() else _find_leaks(config, train_splits, eval_splits)
    summaries = [pair.summary() for pair in found if not pair.is_empty_own]
    for line in search.report_lines(summaries):
        print_on_host0(line)
    if config.input.leaks == "exclude":
        before = {} if config.allow_changed_mix else saved_data or {}
        train_splits = _exclude(train_splits, found, before)
    seen = np.frombuffer(bytes.fromhex("".join(split.fingerprint for split in train_splits.values())), np.uint8)
    multihost_utils.assert_equal(seen, "hosts found different data or leaks: do they read the same config.data_dir?")
    return train_splits, summaries


def epochs(config: ConfigDict, schedule: mixture.BatchSchedule, num_examples: Mapping[str, int]) -> dict[str, float]:
    """How often the whole run sees each training example of a dataset, whatever was changed on the way.

    Args:
        config: the whole config.
        schedule: which batches its steps consume.
        num_examples: dataset -> number of its training examples.
    """
    batches = schedule.counts(config.steps)
    per_batch = {name: dataset.batch_size / dataset.repeats for name, dataset in config.datasets.items()}
    return {name: batches[name] * per_batch[name] / count for name, count in num_examples.items()}


def _exclude(
    train_splits: dict[str, records.Split], found: Sequence[kept.Leaks], saved_data: Mapping[str, Mapping]
) -> dict[str, records.Split]:
    """The splits without leaks. A run goes on with the exclusions that it began with, whatever has been found since."""
    excluded = search.exclude(train_splits, found)
    for name, now in excluded.items():
        began = saved_data.get(name, {})
        if began.get("fingerprint") in (None, now.fingerprint):
            continue
        for split in _exclusions_before(name, train_splits, found, began):
            if split.fingerprint == began["fingerprint"]:  # otherwise the data has changed, which is refused
                print_on_host0(
                    f"{name}: trains without {split.num_excluded} examples that were found as leaks when the run "
                    f"began; {now.num_excluded} are found now; --config.allow_changed_mix=True leaves these out from "
                    "here on"
                )
                excluded[name] = split
                break
    return excluded


def _exclusions_before(
    name: str, train_splits: dict[str, records.Split], found: Sequence[kept.Leaks], began: Mapping[str, Any]
) -> Iterator[records.Split]:
    """The split as a run may have begun with it: as its checkpoint says, or as 0.2.0 did, which did not say it."""
    excluded, split = metadata.excluded_records(began), train_splits[name]
    if excluded is None:
        yield search.exclude(train_splits, [leaks for leaks in found if not leaks.is_own])[name]
    elif excluded.max(initial=-1) < split.num_examples > len(excluded):
        yield records.exclude(split, excluded)


def _find_leaks(config: ConfigDict, train_splits: dict, eval_splits: dict) -> list[kept.Leaks]:
    """Searches on the first host, and sends the result to all others.

    Each line of progress restarts the timeout of the phase on all hosts.
    """

    def tell(line: str) -> None:
        process.enter_phase("start", line)
        print_on_host0(f"leaks: {line}")
        hosts.exchange(json.dumps({"progress": line}))

    frames_features = {name: dataset.frames_feature for name, dataset in config.datasets.items()}
    load_facts = functools.partial(facts.load_facts, measure=False, tell=tell)
    found = search.find_leaks(train_splits, eval_splits, frames_features, load_facts, tell)
    hosts.exchange(json.dumps({"found": [leaks.to_json() for leaks in found]}))
    return found


def _wait_for_leaks() -> list[kept.Leaks]:
    """What `_find_leaks` found on the first host. Not a collective: on CPUs collectives time out after 30 s.

    If the first host ends, the peer monitor ends this host. If it makes no progress, the watchdog ends both.
    """
    while "found" not in (news := json.loads(hosts.exchange("")[0])):
        process.enter_phase("start", f"the first host: {news['progress']}")
    return [kept.Leaks.from_json(leaks) for leaks in news["found"]]


def frame_sizes(config: ConfigDict, train_splits: dict, eval_splits: dict) -> frame_size.Sizes:
    """Sizes of a few stored frames of each dataset's splits; without an evaluation split, of none there.

    The first host reads them for all: a record that only one host cannot read must not give it other shapes.
    """

    def sample(split: records.Split | None, name: str) -> list[list[int]]:
        if split is None:
            return []
        sizes: list[list[int]] = frame_sizes_of.sample_sizes(split, config.datasets[name].frames_feature).tolist()
        if not sizes:
            print_on_host0(f"WARNING: {name}: none of the sampled {split.split} records can be read for their size")
        return sizes

    mine = {}
    if jax.process_index() == 0:
        mine = {
            name: [sample(split, name), sample(eval_splits.get(name), name)] for name, split in train_splits.items()
        }
    of_host0 = json.loads(hosts.exchange(json.dumps(mine))[0])

    def as_array(sizes: list[list[int]]) -> np.ndarray:
        return np.array(sizes, np.int32).reshape(-1, 2)

    return {name: (as_array(train), as_array(evaluated)) for name, (train, evaluated) in of_host0.items()}


def open_streams(
    stack: contextlib.ExitStack, config: ConfigDict, train_splits: dict, mesh: Mesh, counts: dict[str, int]
) -> dict[str, pipeline.Stream]:
    """One stream per dataset with clips of its own: this host's batches, from the schedule's current batch on.

    Args:
        stack: closes them.
        counts: dataset -> number of its batches that are already consumed.
    """
    return {
        name: stack.enter_context(open_stream(config, name, train_splits[name], mesh, counts[name]))
        for name in mixture.by_clip_source(config.datasets)
    }


def open_stream(config: ConfigDict, name: str, split: records.Split, mesh: Mesh, first_batch: int) -> pipeline.Stream:
    """The training batches of a dataset for this host's devices, from `first_batch` on."""
    options = pipeline.ReadOptions.of(config.input, *sharding.host_part(mesh))
    source = mixture.clip_source(config.datasets, name)
    return pipeline.train_stream(
        split, config.datasets[source], name=source, seed=config.seed, first_batch=first_batch, options=options
    )
