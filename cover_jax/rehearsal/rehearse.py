"""The rehearsal of a run: every stage of it once, with its own code, before any long run."""

import dataclasses
import time

import jax
from ml_collections import ConfigDict

from cover_jax import errors
from cover_jax.checkpoint import metadata
from cover_jax.fault_tolerance import exit_process, process, tolerant_io
from cover_jax.parallel import backend, sharding
from cover_jax.parallel.hosts import print_on_host0
from cover_jax.rehearsal import data, duration, kernels, memory, programs, schedule, table, trial
from cover_jax.rehearsal.findings import Findings
from cover_jax.training import inputs
from cover_jax.training.run import Run
from data_pipelines import command_line, escaping


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
    rehearsal = _Rehearsal(config, workdir, out or f"{str(workdir).rstrip('/')}.rehearsal.json")
    # An error of another host ends this process without an exception.
    take_back = exit_process.before_exit(rehearsal.report_early)
    try:
        with trial.scratch_folder(workdir, rehearsal.findings) as scratch:
            try:
                rehearsal.go_through(scratch)
            except BaseException as error:
                said = str(error) if hasattr(error, "exit_code") else f"{type(error).__name__}: {error}"
                rehearsal.report_early(getattr(error, "exit_code", errors.FAILED), escaping.one_line(said))
                raise
    finally:
        take_back()
    rehearsal.report_all()
    if problem := rehearsal.findings.error():
        raise problem


@dataclasses.dataclass
class _Rehearsal:
    """What a rehearsal has so far.

    Attributes:
        config, workdir: as given.
        path: of the JSON file.
        findings: of this host.
        run: of the datasets with which nothing is wrong; None: there is none so far.
        complete: whether it has all datasets.
        is_reported: the table is printed; it is printed once.
        began_s: when the rehearsal began, a value of time.perf_counter().
    """

    config: ConfigDict
    workdir: str
    path: str
    findings: Findings = dataclasses.field(default_factory=Findings)
    run: Run | None = None
    complete: bool = False
    is_reported: bool = False
    began_s: float = dataclasses.field(default_factory=time.perf_counter)

    def go_through(self, scratch: str | None) -> None:
        """The stages, each as far as those before it allow."""
        findings = self.findings
        process.enter_phase("start", "comparing the attention kernels")
        mesh = sharding.make_mesh(self.config.mesh)
        self.config = backend.with_dtype(self.config, mesh.devices.flat[0])
        with findings.stage("attention"):
            kernels.compare(self.config, mesh, findings)
        with findings.stage("data"):
            opened = data.open_datasets(self.config, mesh, findings)
        if not opened.train:
            return
        with findings.stage("leaks_and_pixels"), findings.collect(together=True):
            inputs.agree_on_data(opened.train, opened.evaluated)
            self.run = run = Run(opened.config, self.workdir, (opened.train, opened.evaluated))
            self.complete = opened.complete
            _note_leaks(run, findings)
            _note_enlargements(run, findings)
        findings.agree()
        if self.run is None:
            return
        unreadable = data.read_batches(run, findings)
        compiled = programs.compile_programs(run, findings).without(unreadable)
        if compiled.steps or compiled.evaluations:
            self._try(run, compiled, scratch)

    def _try(self, run: Run, compiled: programs.Programs, scratch: str | None) -> None:
        """The stages that need compiled programs."""
        with self.findings.stage("first_state"):
            state, history = trial.begin(run, self.complete, self.findings)
        state = trial.take_steps(run, state, history, compiled, self.findings)
        trial.evaluate(run, state, compiled, self.findings)
        if scratch:
            trial.save_and_restore(run, state, history, scratch, self.findings)

    def report_all(self) -> None:
        """Prints and writes the figures of all hosts, and adds what they show to the problems."""
        findings, run = self.findings, self.run
        _note_memory(findings)
        duration.note(findings, time.perf_counter() - self.began_s)
        measured = findings.worst()
        planned = schedule.make_schedule(run, measured) if run and self.complete else None
        if run and planned:
            schedule.check_input(run, planned, measured, findings)
        duration.check(self.config, measured, findings)
        findings.agree()
        self._report(findings, planned, measured)

    def report_early(self, code: int, cause: str) -> None:
        """Prints and writes what the first host has so far. Waits for no other host: one of them ends the rehearsal."""
        if jax.process_index() == 0 and not self.is_reported:
            findings = self.findings.so_far(f"the rehearsal ended early: {cause}", code)
            if jax.process_count() > 1:
                findings.warn("the figures are those of host 0 alone")
            _note_memory(findings)
            duration.note(findings, time.perf_counter() - self.began_s)
            duration.check(self.config, findings.measured, findings)
            self._report(findings, None, findings.measured)

    def _report(self, findings: Findings, planned: schedule.Schedule | None, measured: dict[str, float]) -> None:
        self.is_reported = True
        if jax.process_index() == 0:
            with tolerant_io.tolerate_storage_errors(self.path):
                command_line.write_json(self.path, table.as_json(planned, measured, findings))
        print_on_host0(table.report(self.config, self.run, planned, measured, findings))


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


def _note_memory(findings: Findings) -> None:
    """The memory that this host has used; that of its devices is measured before the state is restored."""
    findings.measured["host_peak_gib"] = memory.host_peak_gib()
    findings.measured["host_total_gib"] = memory.host_total_gib()
    trial.note_device_memory(findings)
