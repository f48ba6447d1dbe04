"""The data of a run: opens and counts every dataset, reads batches, and measures how fast this host reads."""

import copy
import dataclasses
import itertools
import time

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cover_jax.config import checks
from cover_jax.fault_tolerance import process
from cover_jax.rehearsal.findings import Findings
from cover_jax.training import inputs
from cover_jax.training.run import Run
from data_pipelines.stream import mixture, pipeline, records
from data_pipelines.stream.batch import Batch

READ_S = 60.0  # the input of all datasets together is read for about as long
MEASURE_S = 5.0  # and that of one at most so long
MEASURE_BATCHES = 50  # or for as many batches


@dataclasses.dataclass(frozen=True)
class Opened:
    """The datasets with which nothing is wrong so far.

    Attributes:
        config: the run's config with only these datasets.
        train, evaluated: dataset -> its opened split.
        complete: all datasets of the run are here.
    """

    config: ConfigDict
    train: dict[str, records.Split]
    evaluated: dict[str, records.Split]
    complete: bool


def open_datasets(config: ConfigDict, mesh: Mesh, findings: Findings) -> Opened:
    """Opens and counts every dataset, and checks that the devices can share its batches."""
    train: dict[str, records.Split] = {}
    evaluated: dict[str, records.Split] = {}
    wrong: set[str] = set()
    for name in config.datasets:
        process.enter_phase("start", f"opening {name}")
        with findings.collect() as batches:
            checks.validate_batches(keep(config, {name}), mesh.shape)
        with findings.collect(f"{name}: ") as data:
            inputs.prepare_if_self_contained(config, name)
            train[name], of_evaluation = inputs.open_dataset(config, name)
            findings.facts[f"{name}/train_examples"] = train[name].num_examples
            findings.facts[f"{name}/classes"] = len(train[name].class_names)
            if of_evaluation:
                evaluated[name] = of_evaluation
                findings.facts[f"{name}/eval_examples"] = of_evaluation.num_examples
        if batches.failed or data.failed:
            wrong.add(name)
    wrong = findings.agree_on(wrong)
    sound = set(config.datasets) - wrong
    return Opened(
        config=keep(config, sound),
        train={name: split for name, split in train.items() if name in sound},
        evaluated={name: split for name, split in evaluated.items() if name in sound},
        complete=not wrong,
    )


def keep(config: ConfigDict, names: set[str]) -> ConfigDict:
    """The config with only these of its datasets."""
    config = copy.deepcopy(config)
    with config.unlocked():
        for name in set(config.datasets) - names:
            del config.datasets[name]
    return config


def read_batches(run: Run, findings: Findings) -> set[str]:
    """Reads batches of every split on this host, and measures how many clips a second it reads without the devices.

    Returns:
        The datasets that any host cannot read.
    """
    config, mesh, wrong = run.config, run.setup.mesh, set()
    measure_s = min(MEASURE_S, READ_S / len(mixture.by_clip_source(config.datasets)))
    with findings.stage("batches"):
        for name in mixture.by_clip_source(config.datasets):
            split = run.train_splits[name]
            process.enter_phase("start", f"reading batches of {name}")
            with findings.collect(f"config.datasets.{name}: ") as attempt:
                with inputs.open_stream(config, name, split, mesh, 0) as stream:
                    _check_first(config, name, next(stream), stream, findings)
                    findings.measured[f"{name}/input_clips_per_s"] = clips_per_s(stream, config, measure_s)
                if name in run.eval_splits:
                    with run.evaluator.open_stream(name) as stream:
                        next(stream)
            if attempt.failed:
                wrong.add(name)
    return findings.agree_on(wrong)


def _check_first(config: ConfigDict, name: str, batch: Batch, stream: pipeline.Stream, findings: Findings) -> None:
    """Checks that not all examples of a batch are undecodable. Single ones are counted in the steps."""
    if not batch["weight"].any():
        dataset, index = config.datasets[name], int(batch["index"][0])
        findings.add(
            f"config.datasets.{name}.frames_feature={dataset.frames_feature!r}: no example of the first batch can be "
            f"decoded; example {index}: {stream.why_undecodable(index, int(batch['seed'][0]))}"
        )


def clips_per_s(stream: pipeline.Stream, config: ConfigDict, measure_s: float) -> float:
    """Clips a second that this host reads with all its threads, by at least one batch after those in the buffer."""
    # What was read before the clock started would be counted otherwise.
    rows = [len(batch["label"]) for batch in itertools.islice(stream, config.input.prefetch_batches + 1)]
    start, count = time.perf_counter(), 0
    while not count or (time.perf_counter() - start < measure_s and count < MEASURE_BATCHES):
        next(stream)
        count += 1
    return float(np.mean(rows)) * count / (time.perf_counter() - start)
