"""How long a rehearsal took besides compilation: needed against found, and above the limit what to change."""

import json
import time

import pytest

from cover_jax.rehearsal import duration, findings, rehearse
from tests.helpers import tiny_run

COMPILATION_S = 900.0  # a whole pod's programs; it does not count


def reported(tmp_path, capsys, took_s: float, measured=(), early=False, **facts) -> tuple[dict, str]:
    """(the JSON, what is printed) of a rehearsal that took so long besides compilation, with these figures."""
    config = tiny_run.config("/data", keep=("images", "motion"))
    rehearsal = rehearse._Rehearsal(config, str(tmp_path / "run"), str(tmp_path / "out.json"))
    rehearsal.began_s = time.perf_counter() - took_s - COMPILATION_S
    rehearsal.findings.measured |= {"stage/compilation_s": COMPILATION_S, "stage/data_s": 20.0, **dict(measured)}
    rehearsal.findings.facts |= facts
    if early:
        rehearsal.report_early(143, "ended by SIGTERM")
    else:
        rehearsal.report_all()
    return json.loads((tmp_path / "out.json").read_text()), " ".join(capsys.readouterr().out.split())


def test_a_rehearsal_within_its_limit_is_no_warning(tmp_path, capsys):
    found, printed = reported(tmp_path, capsys, 290.0, {"stage/checkpoint_s": 180.0})
    took = found["besides_compilation"]
    assert found["ready"] and not found["warnings"] and duration.LIMIT_S == 300.0
    assert (took["needed_s"], took["longest_stage"], took["longest_s"]) == (300.0, "checkpoint", 180.0)
    assert took["found_s"] == pytest.approx(290.0, abs=5.0)
    assert "rehearsal, besides compilation, s at most 300 29" in printed
    assert "its longest stage, checkpoint, s 180.0" in printed


@pytest.mark.parametrize(
    ("measured", "named"),
    [
        (
            {"stage/checkpoint_s": 320.0, "save_s": 199.6, "restore_s": 120.0},
            "checkpoint, 320 s; the storage of --workdir is too slow (3.2 GiB: saved in 200 s, restored in 120 s): "
            "choose storage in the same region as the hosts",
        ),
        (
            {"stage/steps_s": 250.0, "images/step_s": 20.0, "motion/step_s": 40.0},
            "steps, 250 s; the slowest is motion, 40 s each: take more chips, or lower "
            "config.datasets.motion.batch_size (now 8)",
        ),
        ({"stage/steps_s": 250.0, "images+motion/step_s": 20.0}, "the slowest is images+motion, 20 s each: take more"),
        ({"stage/steps_s": 250.0}, "steps, 250 s; none of them came to its end"),
        (
            {"stage/evaluation_s": 250.0, "images/eval_batch_s": 30.0},
            "evaluation, 250 s; the slowest is images, 30 s each: take more chips, or lower "
            "config.datasets.images.eval_batch_size (now 8)",
        ),
        ({"stage/batches_s": 250.0}, "batches, 250 s; reading config.data_dir='/data' is slow: choose storage"),
        ({"stage/data_s": 250.0}, "data, 250 s; opening the shards in config.data_dir='/data' is slow: choose storage"),
        (
            {"stage/leaks_and_pixels_s": 250.0},
            "leaks and pixels, 250 s; search for leaks before, on any machine: python -m data_pipelines.doctor",
        ),
        ({"stage/first_state_s": 250.0}, "first state, 250 s; config.model.init_from is read here"),
        ({"stage/attention_s": 250.0}, "attention, 250 s; JAX_COMPILATION_CACHE_DIR=FOLDER keeps the compiled"),
        ({}, "other, 390 s; the folder beside --workdir answers slowly"),
    ],
)
def test_above_the_limit_a_warning_names_the_longest_stage_and_what_to_change(tmp_path, capsys, measured, named):
    found, printed = reported(tmp_path, capsys, 410.4, measured, checkpoint_gib=3.2)
    (warning,) = found["warnings"]
    assert warning.startswith("the rehearsal took 410 s besides compilation, more than 300: the longest stage is ")
    assert named in warning and f"WARNING: {warning}" in printed
    assert found["ready"]  # the run itself would work


def test_a_rehearsal_that_ends_early_says_it_too(tmp_path, capsys):
    found, _ = reported(tmp_path, capsys, 700.0, {"stage/data_s": 650.0}, early=True)
    assert found["besides_compilation"]["longest_stage"] == "data" and not found["ready"]
    assert found["warnings"][0].startswith("the rehearsal took 700 s besides compilation")


def test_of_several_hosts_the_slowest_counts():
    """Stages of different hosts can add up to more than any host took."""
    took = duration.of({"besides_compilation_s": 100.0, "stage/data_s": 70.0, "stage/steps_s": 60.0})
    assert (took.longest_stage, took.longest_s) == ("data", 70.0)
    assert duration.of({}) is None and findings.stages_s({"stage/data_s": 70.0}) == {"data": 70.0}
