"""A rehearsal of a sound run, and of runs with planted faults: each is found, with the key or command that mends it."""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import shutil
import signal
import types

import jax
import numpy as np
import pytest

from cover_jax import errors
from cover_jax.checkpoint import saver
from cover_jax.fault_tolerance import process
from cover_jax.models.kernels import divided_attention
from cover_jax.parallel import chips
from cover_jax.rehearsal import data, findings, kernels, memory, programs, rehearse, table, trial
from cover_jax.training import setup
from data_pipelines.leaks import search
from data_pipelines.stream import mixture
from tests.helpers import jobs, tiny_run

STAGES = ["attention", "data", "leaks_and_pixels", "batches", "compilation", "first_state", "steps", "evaluation",
          "checkpoint"]  # fmt: skip
NOTHING_COMPILED = programs.Programs([], [])  # for faults that are found before
STEPS = 24


def one_dataset(data_dir):
    """The config of the tests that run programs: they share them."""
    return tiny_run.config(data_dir, keep=("images",), steps=STEPS)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("data")
    tiny_run.prepare_data(folder)
    return folder


@pytest.fixture(autouse=True)
def cheap():
    """Input is measured by two batches, and equal setups share their programs."""
    with _shared_programs():
        yield


@contextlib.contextmanager
def _shared_programs():
    make, made = setup.make_setup, _MADE

    def make_setup(config, class_names, mesh, *kept_heads_and_specs):
        parts = [config[key].to_json_best_effort() for key in ("model", "optimizer", "datasets")]
        key = json.dumps([*parts, config.plan, config.seed, config.steps])
        if key not in made:
            made[key] = make(config, class_names, mesh, *kept_heads_and_specs)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "make_setup", make_setup)
        patch.setattr(data, "MEASURE_BATCHES", 2)
        yield


_MADE: dict[str, setup.Setup] = {}


def rehearsed(config, workdir) -> tuple[dict, str, int]:
    """(the JSON, the message, the exit code) of a rehearsal; the scratch folder must be gone."""
    message, code = "", errors.DONE
    try:
        rehearse.rehearse(config, str(workdir))
    except findings.RehearsalError as error:
        message, code = str(error), error.exit_code
    assert not pathlib.Path(f"{workdir}.rehearsal").exists() and not pathlib.Path(workdir).exists()
    written = pathlib.Path(f"{workdir}.rehearsal.json")
    return json.loads(written.read_text()) if written.exists() else {}, message, code


@pytest.fixture(scope="module")
def sound(data_dir, tmp_path_factory):
    """A sound run: its config, the JSON, and what was printed."""
    config, folder, printed = one_dataset(data_dir), tmp_path_factory.mktemp("sound"), []
    with _shared_programs(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(rehearse, "print_on_host0", printed.append)
        result, message, code = rehearsed(config, folder / "run")
    assert (message, code) == ("", errors.DONE)
    return config, result, "\n".join(printed)


@pytest.mark.slow
def test_a_sound_run_is_ready(sound):
    _, result, printed = sound
    assert printed.endswith("\nready") and result["ready"] and result["problems"] == []
    facts, measured = result["facts"], result["measured"]
    assert (facts["images/train_examples"], facts["images/eval_examples"], facts["images/classes"]) == (48, 8, 10)
    for key in ("images/step_s", "images/eval_batch_s", "images/input_clips_per_s", "compile_s",
                "save_s", "save_blocks_s", "restore_s", "host_peak_gib"):  # fmt: skip
        assert measured[key] > 0, key
        assert np.isfinite(measured[key])
    for what in (
        "images: input, clips/s per host",
        "the whole schedule, hours",
        "not for this device",
        "einsum on cpu",
        "rehearsal: steps, s",
    ):
        assert what in printed
    assert list(result["stages_s"]) == STAGES and all(seconds >= 0 for seconds in result["stages_s"].values())
    assert "leaks: not searched for (config.input.leaks='ignore')" in printed
    took = result["besides_compilation"]
    others = {name: seconds for name, seconds in result["stages_s"].items() if name != "compilation"}
    assert took["needed_s"] == 300 and sum(others.values()) <= took["found_s"]
    assert took["longest_s"] >= max(others.values()) and took["longest_stage"] in {*others, "other"}
    assert facts["checkpoint_gib"] > 0 and "rehearsal, besides compilation, s" in printed


@pytest.mark.slow
def test_the_schedule_counts_every_step_evaluation_and_save(sound):
    config, result, _ = sound
    schedule, measured = result["schedule"], result["measured"]
    steps = mixture.Mixture.of(config.datasets, config.plan, config.seed).counts(STEPS)
    assert schedule["epochs"] == {name: pytest.approx(steps[name] * 8 / 48) for name in steps}
    assert (schedule["evaluations"], schedule["saves"]) == (1, 8)
    steps_s = sum(steps[name] * measured[f"{name}/step_s"] for name in steps)
    assert steps == {"images": STEPS}
    input_s = sum(steps[name] * 8 / measured[f"{name}/input_clips_per_s"] for name in steps)
    hours = max(steps_s, input_s) + measured["images/eval_batch_s"] + 8 * measured["save_blocks_s"]
    assert schedule["hours"] == pytest.approx(hours / 3600)


@pytest.fixture
def nothing_compiled(monkeypatch):
    monkeypatch.setattr(programs, "compile_programs", lambda run, found: NOTHING_COMPILED)


def test_a_missing_shard_is_named_and_the_other_datasets_are_still_rehearsed(data_dir, tmp_path, nothing_compiled):
    shutil.copytree(data_dir, tmp_path / "data")
    (shard,) = (tmp_path / "data").glob("digits/images/*/*train.tfrecord-00000-of-00001")
    shard.unlink()
    result, message, code = rehearsed(tiny_run.config(tmp_path / "data"), tmp_path / "run")
    assert code == errors.CONFIG and f"shard {shard} is missing; restore it" in message
    assert "motion/input_clips_per_s" in result["measured"] and "images/input_clips_per_s" not in result["measured"]
    assert result["schedule"] is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"datasets__images__num_classes": 11},
            "config.datasets.images.num_classes=11: the prepared digits/images has",
        ),
        ({"datasets__images__frames_feature": "jpegs"}, "config.datasets.images.frames_feature='jpegs': the prepared"),
        ({"datasets__images__batch_size": 12}, "config.datasets.images.batch_size=12: must be a multiple of 8"),
        ({"datasets__images__train_split": "trian"}, "config.datasets.images.train_split='trian': dataset"),
        ({"datasets__images__builder": "ucf101"}, "python -m data_pipelines.prepare ucf101 --manual_dir=FOLDER"),
    ],
    ids=["class count", "frames_feature", "batch", "split", "not prepared"],
)
def test_a_wrong_key_is_named_with_all_others(changes, named, data_dir, tmp_path, nothing_compiled):
    config = tiny_run.config(data_dir, datasets__motion__num_classes=9, **changes)
    _, message, code = rehearsed(config, tmp_path / "run")
    assert code == errors.CONFIG and named in message
    assert "config.datasets.motion.num_classes=9: the prepared digits/motion has 8" in message


def test_a_feature_that_holds_no_pictures_is_named(data_dir, tmp_path, nothing_compiled):
    config = tiny_run.config(data_dir, datasets__images__frames_feature="source")
    _, message, code = rehearsed(config, tmp_path / "run")
    assert code == errors.CONFIG, message
    assert "config.datasets.images.frames_feature='source': no example of the first batch can be decoded" in message


def test_a_folder_that_cannot_be_written_is_named(data_dir, tmp_path, nothing_compiled):
    (tmp_path / "file").touch()
    _, message, code = rehearsed(tiny_run.config(data_dir), tmp_path / "file" / "run")
    assert code == errors.CONFIG and f"--workdir={tmp_path}/file/run: " in message and "cannot be written" in message


def test_a_canvas_that_is_too_small_is_named_and_a_small_source_is_a_warning(data_dir, tmp_path, nothing_compiled):
    """The digits have 16 x 16 pixels."""
    config = tiny_run.config(data_dir, datasets__motion__canvas_px=(8, 8), model__size_px=32)
    result, message, code = rehearsed(config, tmp_path / "run")
    assert code == errors.CONFIG and message.count("config.datasets.") == 1
    assert "motion: frames are enlarged 4 times: raise config.datasets.motion.canvas_px=(8, 8)" in message
    (warning,) = result["warnings"]
    assert warning.startswith("images: frames are enlarged 2 times: ") and "lower config.model.size_px" in warning
    assert (result["facts"]["images/enlargement_train"], result["facts"]["motion/enlargement_evaluation"]) == (2, 4)


@pytest.mark.slow
def test_problems_of_all_stages_are_collected(data_dir, tmp_path, monkeypatch):
    """Undecodable examples, a slow input and a full disk."""

    def refuse(*_):
        raise OSError(28, "No space left on device", "/disk/x")

    shutil.copytree(data_dir, tmp_path / "data")
    tiny_run.damage(data.records.open_split("digits/images", "train", str(tmp_path / "data")), list(range(24)))
    monkeypatch.setattr(data, "clips_per_s", lambda *_: 0.5)
    monkeypatch.setattr(saver, "start_save", refuse)
    result, message, code = rehearsed(one_dataset(tmp_path / "data"), tmp_path / "run")
    assert code == errors.BAD_DATA
    assert "of its 48 training examples cannot be decoded (config.input.max_bad_share=0.01)" in message
    assert "No space left on device" in message and "make space, or choose another --workdir" in message
    assert {problem["exit_code"] for problem in result["problems"]} >= {errors.BAD_DATA, errors.NOT_SAVED}
    assert "restore_s" not in result["measured"] and result["measured"]["images/eval_batch_s"] > 0


@pytest.mark.parametrize("part", ["", "output", "gradient"])
def test_a_kernel_that_differs_is_found(part, monkeypatch):
    config, found = tiny_run.config("", keep=("images",), model__attention="fused"), findings.Findings()
    call, method = divided_attention._Call, {"output": "forward", "gradient": "backward"}.get(part, "forward")
    right, factor = getattr(call, method), 1.02 if part else 1.0
    monkeypatch.setattr(call, method, lambda self, *arrays: right(self, *arrays) * factor)
    kernels._output_and_gradient.clear_cache()
    kernels.compare(config, setup.make_mesh(config), found)
    kernels._output_and_gradient.clear_cache()
    found.agree()
    assert "pallas, interpreted on cpu" in found.facts["attention"]
    texts = [problem.text for problem in found.problems]
    assert bool(texts) == bool(part)
    if part:
        assert any(f"its {part} is off by" in text for text in texts)
        assert texts[0].startswith("config.model.attention='fused': the pallas kernel over space differs from einsum")
        assert "set config.model.attention='einsum'" in texts[0] and found.problems[0].exit_code == errors.CONFIG


def test_an_early_report_is_whole_while_the_rehearsal_goes_on(tmp_path, monkeypatch):
    rehearsal = rehearse._Rehearsal(one_dataset(""), str(tmp_path / "run"), str(tmp_path / "early.json"))
    rehearsal.findings.facts["a"] = rehearsal.findings.measured["stage/a_s"] = 1
    rehearsal.findings.add("something is wrong")

    def report(config, run, planned, measured, found):
        for several in (found.facts, measured, found.problems):
            for _ in several:  # the other thread, in the midst of it
                rehearsal.findings.facts[f"fact{len(rehearsal.findings.facts)}"] = 1
                rehearsal.findings.measured[f"stage/{len(rehearsal.findings.measured)}_s"] = 1.0
                rehearsal.findings.problems.append(found.problems[0])
        return "the table"

    monkeypatch.setattr(table, "report", report)
    rehearsal.report_early(errors.FAILED, "another host ended")
    found = json.loads((tmp_path / "early.json").read_text())
    assert [problem["text"] for problem in found["problems"]] == [
        "something is wrong", "the rehearsal ended early: another host ended",
    ]  # fmt: skip


@pytest.mark.parametrize(("mode", "code"), [("report", errors.CONFIG), ("exclude", errors.DONE)])
def test_a_leak_is_found(mode, code, data_dir, tmp_path, nothing_compiled, monkeypatch, capsys):
    none, pairs = np.zeros((0, 2), np.int64), np.array([[0, 3], [1, 4]])
    leaks = search.Leaks("motion", "images", {"origin": none, "file": pairs, "content": none}, 0, "")
    monkeypatch.setattr(search, "find_leaks", lambda *_, **__: [leaks])
    _, message, ended = rehearsed(tiny_run.config(data_dir, input__leaks=mode), tmp_path / "run")
    printed = capsys.readouterr().out
    assert ended == code and "leaks: 2 validation examples of motion are also 2 training examples of images" in printed
    if mode == "report":
        assert "config.input.leaks='report': 2 training examples of images" in message
    else:
        assert "leaks: 2 examples left out of training" in printed


@pytest.mark.slow
def test_too_little_memory_is_found_with_the_plan_s_advice(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "device_limit_gib", lambda device: 0.001)
    _, message, code = rehearsed(one_dataset(data_dir), tmp_path / "run")
    assert code == errors.CONFIG
    assert "GiB of a device's 0.001 GiB" in message and "raise config.mesh.fsdp (now 1)" in message


@pytest.mark.slow
def test_a_slow_input_is_found(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "clips_per_s", lambda *_: 0.5)
    monkeypatch.setattr(trial, "save_and_restore", lambda run, state, history, scratch, found: found.measured.update(
        save_blocks_s=1.0))  # fmt: skip
    _, message, code = rehearsed(one_dataset(data_dir), tmp_path / "run")
    assert code == errors.CONFIG and "the slowest is images, 0.5 of the" in message
    assert "config.input.threads=0" in message and "config.datasets.images.repeats (now 1)" in message


def test_the_speed_of_the_input_does_not_count_what_was_read_before(monkeypatch):
    clock = [0.0]

    def read():
        for number in itertools.count():
            clock[0] += 0.0 if number < 3 else 2.0  # the first ones were in the buffer
            yield {"label": np.zeros(6)}

    monkeypatch.setattr(data.time, "perf_counter", lambda: clock[0])
    config = types.SimpleNamespace(input=types.SimpleNamespace(prefetch_batches=2))
    assert data.clips_per_s(read(), config, measure_s=5.0) == 3.0


@pytest.mark.parametrize(("limit_s", "steps", "batches"), [(60.0, 3, 3), (0.0, 2, 1)])
def test_where_a_stage_has_no_time_left_it_takes_what_it_needs_and_no_more(monkeypatch, limit_s, steps, batches):
    """Of each set of datasets one step that is not timed and one that is; of each dataset one timed batch."""
    taken, evaluated, found = [], [], findings.Findings()
    monkeypatch.setattr(trial, "STEPS_S", limit_s)
    monkeypatch.setattr(trial, "EVALUATION_S", limit_s)
    monkeypatch.setattr(trial.inputs, "open_stream", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(
        trial, "_take_step", lambda run, state, streams, *_: taken.append(list(streams)) or (state, 0.5)
    )
    wanted = programs.Programs([("images",), ("motion",)], ["motion"])
    schedule = types.SimpleNamespace(step=0, counts=lambda step: {"images": 0, "motion": 0})
    run = types.SimpleNamespace(
        config=None, setup=types.SimpleNamespace(mesh=None, train_batches=lambda names: names),
        train_splits={"images": None, "motion": None},
        evaluator=types.SimpleNamespace(num_batches=lambda name: 9, evaluate=lambda _, name, most_batches:
                                        evaluated.append(most_batches)),
    )  # fmt: skip
    trial.take_steps(run, {}, types.SimpleNamespace(batch_schedule=schedule), wanted, found)
    trial.evaluate(run, types.SimpleNamespace(eval_params={}), wanted, found)
    assert taken == [["images"]] * steps + [["motion"]] * steps and evaluated == [1, batches]
    assert found.measured["images/step_s"] == 0.5
    assert list(findings.stages_s(found.measured)) == ["steps", "evaluation"]


def test_a_checkpoint_is_measured_without_compilation_and_with_one_state_on_the_devices(tmp_path, monkeypatch):
    """The fingerprint is compiled before the clock starts. The state is gone when it is restored, its memory noted."""
    state, events, found = {"a": jax.numpy.arange(8.0)}, [], findings.Findings()
    leaf = state["a"]

    class Saver:
        def __init__(self, config, folder): ...
        def __enter__(self):
            return self

        def __exit__(self, *_): ...
        def save(self, saved, meta, accuracies):
            events.append("save")

        def wait(self):
            return ""

    def restore_newest(*_, **__):
        events.append(("restore", leaf.is_deleted()))
        return {}, {}

    monkeypatch.setattr(trial, "Saver", Saver)
    monkeypatch.setattr(trial.fingerprint, "fingerprint_tree", lambda tree: events.append("fingerprint"))
    monkeypatch.setattr(trial.memory, "device_peak_gib", lambda: events.append("peak") or 1.5)
    monkeypatch.setattr(trial.restore, "restore_newest", restore_newest)
    run = types.SimpleNamespace(meta={}, config=None, setup=types.SimpleNamespace(state=None))
    stepped = _Stepped(state["a"], 1)
    trial.save_and_restore(run, stepped, types.SimpleNamespace(to_json=lambda step: {}), str(tmp_path), found)
    assert events == ["fingerprint", "save", "peak", ("restore", True)]
    trial.note_device_memory(found)
    assert found.measured["device_peak_gib"] == 1.5 and not found._new


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class _Stepped:
    a: jax.Array
    step: int = dataclasses.field(metadata={"static": True})


def test_a_rehearsal_that_is_ended_removes_its_scratch_folder_and_says_what_it_has(
    data_dir, tmp_path, monkeypatch, capsys
):
    def end(*_):
        assert (tmp_path / "run.rehearsal").exists()
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(programs, "compile_programs", end)
    with (
        process.guarded_process(preemptible=False, quiet=True, cleans_up=True),
        pytest.raises(process.TerminatedError) as ended,
    ):
        rehearse.rehearse(tiny_run.config(data_dir), str(tmp_path / "run"))
    assert ended.value.exit_code == 143 and [path.name for path in tmp_path.iterdir()] == ["run.rehearsal.json"]
    result = json.loads((tmp_path / "run.rehearsal.json").read_text())
    assert result["problems"] == [{"text": "the rehearsal ended early: ended by SIGTERM", "exit_code": 143}]
    assert list(result["stages_s"]) == STAGES[:4] and not result["ready"]  # with what was found so far
    printed = capsys.readouterr().out
    assert "motion: training examples" in printed and printed.count("problem: the rehearsal ended early") == 1


@pytest.mark.parametrize(
    ("kind", "chip"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "tpu7x"),
        ("cpu", None),
    ],
)
def test_chips_are_found_by_their_device(kind, chip):
    assert chips.find(types.SimpleNamespace(device_kind=kind)) is (chips.CHIPS[chip] if chip else None)


@pytest.mark.slow
def test_two_hosts_rehearse_together_and_leave_only_the_json(tmp_path):
    with jobs.Jobs(tmp_path).start(tmp_path / "run", "--mode=rehearse", hosts=2) as job:
        assert job.codes() == [0, 0], job.all_printed()
    assert "\nready" in job.printed(0) and "ready" not in job.printed(1)
    result = json.loads((tmp_path / "run.rehearsal.json").read_text())
    assert result["ready"] and result["measured"]["images/step_s"] > 0 and result["measured"]["restore_s"] > 0
    assert not (tmp_path / "run").exists() and not (tmp_path / "run.rehearsal").exists()


@pytest.mark.slow
def test_a_host_that_ends_early_leaves_no_scratch_folder_and_host_0_prints_the_table(tmp_path):
    """Host 1 alone gets SIGTERM; host 0 then ends within a thread, while it compiles or waits."""
    with jobs.Jobs(tmp_path).start(tmp_path / "run", "--mode=rehearse", hosts=2) as job:
        job.until(lambda: (tmp_path / "run.rehearsal" / "lease.json").exists())
        os.kill(job.processes[1].pid, signal.SIGTERM)
        assert job.codes() == [143, 143], job.all_printed()
    assert not (tmp_path / "run.rehearsal").exists() and not (tmp_path / "run").exists()
    result = json.loads((tmp_path / "run.rehearsal.json").read_text())
    cause = "the rehearsal ended early: error on host 1: ended by SIGTERM"
    assert [problem["text"] for problem in result["problems"]] == [cause] and not result["ready"]
    assert f"problem: {cause}" in job.printed(0) and "the figures are those of host 0 alone" in job.printed(0)
    assert "ended early" not in job.printed(1)
