"""The rehearsal of a run: every stage of it once, with its own code, before any long run."""

import jax
from ml_collections import ConfigDict

from cover_jax.checkpoint import metadata
from cover_jax.fault_tolerance import process, tolerant_io
from cover_jax.parallel import sharding
from cover_jax.parallel.hosts import print_on_host0
from cover_jax.rehearsal import data, kernels, memory, programs, schedule, table, trial
from cover_jax.rehearsal.findings import Findings
from cover_jax.training import inputs
from cover_jax.training.run import Run
from data_pipelines import command_line


def rehearse(config: ConfigDict, workdir: str, out: str = "") -> None:
    """Rehearses a run on all hosts together, prints the table, and writes it as JSON. The workdir is not changed.

    Args:
        config: a validated config.
        workdir: of the run, local or gs://.
        out: the JSON file; "": WORKDIR.rehearsal.json.

    Raises:
        RehearsalError: something would stop or starve the run. All that was found is printed before.
        WorkdirInUseError: another rehearsal of this workdir is running.
    """
    findings = Findings()
    with trial.scratch_folder(workdir, findings) as scratch:
        try:
            run, complete = _rehearse(config, workdir, scratch, findings)
        except Exception:  # one that ends all hosts: what was found before must not be lost
            for problem in findings.problems:
                print_on_host0(f"problem: {problem.text}")
            raise
    measured = _measure_memory(findings)
    planned = schedule.make_schedule(run, measured) if run and complete else None
    if run and planned:
        schedule.check_input(run, planned, measured, findings)
    findings.agree()
    if jax.process_index() == 0:
        path = out or f"{str(workdir).rstrip('/')}.rehearsal.json"
        with tolerant_io.tolerate_storage_errors(path):
            command_line.write_json(path, table.as_json(planned, measured, findings))
    print_on_host0(table.report(config, run, planned, measured, findings))
    if error := findings.error():
        raise error


def _rehearse(config: ConfigDict, workdir: str, scratch: str | None, findings: Findings) -> tuple[Run | None, bool]:
    """The stages, each as far as those before it allow. Returns the run, and whether it has all datasets."""
    process.enter_phase("start", "opening all datasets")
    mesh = sharding.make_mesh(config.mesh)
    kernels.compare(config, mesh, findings)
    opened = data.open_datasets(config, mesh, findings)
    if not opened.train:
        return None, False
    run = None
    with findings.collect(together=True):
        inputs.agree_on_data(opened.train, opened.evaluated)
        run = Run(opened.config, workdir, (opened.train, opened.evaluated))
        _note_leaks(run, findings)
        _note_enlargements(run, findings)
    findings.agree()
    if run is None:
        return None, False
    unreadable = data.read_batches(run, findings)
    compiled = programs.compile_programs(run, findings).without(unreadable)
    if not (compiled.steps or compiled.evaluations):
        return run, opened.complete
    state, history = trial.begin(run, opened.complete, findings)
    state = trial.take_steps(run, state, history, compiled, findings)
    trial.evaluate(run, state, compiled, findings)
    if scratch:
        trial.save_and_restore(run, state, history, scratch, findings)
    return run, opened.complete


def _note_leaks(run: Run, findings: Findings) -> None:
    """What the search for leaks has found. Leaks that stay in the training data are a problem."""
    summaries = run.meta["leaks"]
    findings.facts["leaks"] = metadata.leak_lines(run.meta, run.config)
    for summary in summaries:
        if run.config.input.leaks == "report" and summary["training_examples"]:
            findings.add(
                f"config.input.leaks='report': {summary['training_examples']} training examples of "
                f"{summary['training']} are also validation examples of {summary['validation']}; "
                "set config.input.leaks='exclude'"
            )


def _note_enlargements(run: Run, findings: Findings) -> None:
    """How much frames are enlarged for the model. A canvas that shrinks them before is a problem."""
    for name, enlargement in run.enlargements.items():
        findings.facts[f"{name}/enlargement_train"] = enlargement.train
        findings.facts[f"{name}/enlargement_evaluation"] = enlargement.evaluation
        if enlargement.canvas_is_too_small:
            findings.add(f"{name}: frames are enlarged {enlargement.train:.3g} times: {enlargement.remedy}")
        elif enlargement.remedy:
            findings.warn(f"{name}: frames are enlarged {enlargement.train:.3g} times: {enlargement.remedy}")


def _measure_memory(findings: Findings) -> dict[str, float]:
    """All figures of the worst host, with the memory that was used."""
    findings.measured["host_peak_gib"] = memory.host_peak_gib()
    findings.measured["host_total_gib"] = memory.host_total_gib()
    if (peak_gib := memory.device_peak_gib()) is not None:
        findings.measured["device_peak_gib"] = peak_gib
    return findings.worst()
