"""What a rehearsal prints: one table, then warnings and problems; and the same as JSON."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from cover_jax.preprocess import frame_size
from cover_jax.rehearsal import duration
from cover_jax.rehearsal import schedule as schedules
from cover_jax.rehearsal.findings import STAGE, Findings, stages_s
from cover_jax.rehearsal.schedule import Schedule
from cover_jax.training.run import Run
from data_pipelines.output import text_tables

Row = tuple[str, str, str, str]  # what, needed, found, predicted


def report(
    config: ConfigDict, run: Run | None, schedule: Schedule | None, measured: Mapping[str, float], findings: Findings
) -> str:
    """The table, what needs a sentence, the warnings, and how it ends."""
    rows = [*_data_rows(config, run, measured, findings.facts), *_program_rows(measured, findings.facts)]
    rows += [*_host_rows(measured, findings.facts), *_stage_rows(measured), *_schedule_rows(schedule)]
    columns = ("what", "needed", "found", "predicted")
    table = text_tables.text_table("rehearsal", [dict(zip(columns, row, strict=True)) for row in rows or [("",) * 4]])
    legend = "needed: by the config; found: counted or measured, of the slowest host; predicted: by cover_jax.plan"
    notes = [*filter(None, [findings.facts.get("attention")]), *findings.facts.get("leaks", ())]
    warnings = [f"WARNING: {text}" for text in findings.warnings]
    problems = [f"problem: {problem.text}" for problem in findings.problems]
    return "\n".join([table, legend, *notes, *warnings, *(problems or ["ready"])])


def as_json(schedule: Schedule | None, measured: Mapping[str, float], findings: Findings) -> dict[str, Any]:
    """The same for programs. Keys name their units; `DATASET/...` is of one dataset."""
    took = duration.of(measured)
    return {
        "ready": not findings.problems,
        "problems": [dataclasses.asdict(problem) for problem in findings.problems],
        "warnings": findings.warnings,
        "facts": findings.facts,
        "measured": {key: value for key, value in measured.items() if not key.startswith(STAGE)},
        "stages_s": stages_s(measured),
        "besides_compilation": None if took is None else dataclasses.asdict(took),
        "schedule": None if schedule is None else dataclasses.asdict(schedule) | {"hours": schedule.hours},
    }


def _data_rows(
    config: ConfigDict, run: Run | None, measured: Mapping[str, float], facts: Mapping[str, Any]
) -> Iterator[Row]:
    for name, dataset in config.datasets.items():
        if f"{name}/train_examples" not in facts:
            yield f"{name}: data", dataset.builder, "not opened", ""
            continue
        used = run.num_examples[name] if run and name in run.num_examples else facts[f"{name}/train_examples"]
        yield f"{name}: training examples", "", f"{used:,}", ""
        if left_out := facts[f"{name}/train_examples"] - used:
            yield f"{name}: left out as leaks", "", f"{left_out:,}", ""
        if f"{name}/eval_examples" in facts:
            yield f"{name}: validation examples", "", f"{facts[f'{name}/eval_examples']:,}", ""
        yield f"{name}: classes", str(dataset.num_classes or ""), str(facts[f"{name}/classes"]), ""
        if enlargement := facts.get(f"{name}/enlargement_train"):
            yield f"{name}: median enlargement", f"at most {frame_size.MAX_ENLARGEMENT}", f"{enlargement:.3g}", ""
        if rate := measured.get(f"{name}/input_clips_per_s"):
            needed = ""
            if run and any(key.endswith("/step_s") and name in key.split("/")[0].split("+") for key in measured):
                needed = f"{schedules.needed_clips_per_s(run, name, measured):.4g}"
            yield f"{name}: input, clips/s per host", needed, f"{rate:.4g}", ""


def _program_rows(measured: Mapping[str, float], facts: Mapping[str, Any]) -> Iterator[Row]:
    if "compile_s" in measured:
        yield "compilation, side by side, s", "", f"{measured['compile_s']:.1f}", ""
    limit = f"at most {facts.get('device_limit_gib', 0):.3g}"
    for key in facts:
        names, _, kind = key.partition("/")
        if kind in ("train_gib", "evaluation_gib"):
            what = f"{names}: {'training' if kind == 'train_gib' else 'evaluation'} step"
            yield f"{what}, GiB per device", limit, f"{facts[key]:.3g}", ""
            taken = measured.get(f"{names}/{'step_s' if kind == 'train_gib' else 'eval_batch_s'}")
            predicted = facts.get(key.replace("_gib", "_predicted_s"))
            shown = "not for this device" if predicted is None else f"{1e3 * predicted:.4g}"
            if taken is not None:
                yield f"{what}, ms", "", f"{1e3 * taken:.4g}", shown
    if "device_peak_gib" in measured:
        yield "device memory in use at most, GiB", limit, f"{measured['device_peak_gib']:.3g}", ""


def _host_rows(measured: Mapping[str, float], facts: Mapping[str, Any]) -> Iterator[Row]:
    if "checkpoint_gib" in facts:
        yield "a checkpoint, GiB", "", f"{facts['checkpoint_gib']:.3g}", ""
    for key, what in (
        ("save_s", "save a checkpoint, s"),
        ("save_blocks_s", "of which training waits, s"),
        ("restore_s", "restore a checkpoint, s"),
    ):
        if key in measured:
            yield what, "", f"{measured[key]:.3g}", ""
    limit = f"at most {measured['host_total_gib']:.3g}"
    yield "host memory in use at most, GiB", limit, f"{measured['host_peak_gib']:.3g}", ""


def _stage_rows(measured: Mapping[str, float]) -> Iterator[Row]:
    for name, seconds in stages_s(measured).items():
        yield f"rehearsal: {name.replace('_', ' ')}, s", "", f"{seconds:.1f}", ""
    if took := duration.of(measured):
        yield "rehearsal, besides compilation, s", f"at most {took.needed_s:.0f}", f"{took.found_s:.1f}", ""
        yield f"its longest stage, {took.longest_stage.replace('_', ' ')}, s", "", f"{took.longest_s:.1f}", ""


def _schedule_rows(schedule: Schedule | None) -> Iterator[Row]:
    if schedule is None:
        return
    for name, epochs in schedule.epochs.items():
        yield f"{name}: epochs", "", f"{epochs:.3g}", ""
    yield "mean step, ms, without input", "", f"{1e3 * schedule.step_s:.4g}", ""
    yield "input of a mean step, ms", f"at most {1e3 * schedule.step_s:.4g}", f"{1e3 * schedule.input_s:.4g}", ""
    yield "training, hours", "", f"{schedule.training_h:.3g}", ""
    yield f"{schedule.evaluations} evaluations, hours", "", f"{schedule.evaluations_h:.3g}", ""
    yield f"{schedule.saves} saves, hours", "", f"{schedule.saves_h:.3g}", ""
    yield "the whole schedule, hours", "", f"{schedule.hours:.3g}", ""
