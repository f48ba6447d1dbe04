"""The tables of the plan's page: all from one file, resumable row by row, each row with its date and versions."""

import json

import pytest

from cover_jax.plan import table, tables
from cover_jax.plan.step_time import StepTime

ROW = tables.TABLES["cover_l"][0]
PROGRAM = table.Program(
    datasets=("k400",), counts_for=("k400", "mit"), share=1.0, parameters_gib=0.2, optimizer_gib=0.2,
    activations_gib=3.1, peak_gib=3.5, fits=True, host_mib=5.3, tflop=100.0, matmuls_ms=200.0, kernels_ms=60.0,
    elementwise_ms=58.0, sync_collectives_ms=9.0, async_collectives_ms=5.0, grid_steps_ms=13.0,
)  # fmt: skip
PLAN = table.Plan(
    topology="v4:4x4x4", mesh={"data": 8, "fsdp": 8, "tensor": 1}, chips=64, devices=64, batch_sizes={"k400": 64},
    hbm_gib=32, programs=(PROGRAM,), evaluations=(), fits=True, advice="", step_ms=327.0, all_hidden_ms=318.0,
    none_hidden_ms=332.0, mfu=0.401, mfu_all_hidden=0.412, mfu_none_hidden=0.385, clips_per_s=195.0, days=0.2,
)  # fmt: skip
CELLS = ["v4:4x4x4", "8x8x1", "1", "0.20", "0.20", "3.1", "3.5 of 32", "5.3", "200", "60 to 73", "58", "5 + 9", "327",
         "41.2 / 40.1 / 38.5 %", "195"]  # fmt: skip


@pytest.fixture
def rows(monkeypatch):
    """Rows that were asked for, in order; a plan of any row is PLAN."""
    asked = []
    kernels = ["kernel v5e:1x1 time 16 784 64"]
    monkeypatch.setattr(tables, "TABLES", {"a": ["--x=1", "--x=2"], "the mix": ["--x=3"], "kernels": kernels})
    return asked


def make(rows, path, interrupted_at=""):
    def plan(row):
        rows.append(row)
        if row == interrupted_at:
            raise KeyboardInterrupt
        return PLAN

    def kernel(*shape):
        assert shape == ("v5e:1x1", "time", 16, 784, 64)
        return [StepTime(kernels_ms=0.25, grid_steps_ms=0.2), StepTime(kernels_ms=0.5, grid_steps_ms=0.2)]

    tables.make(plan, kernel, path)


def test_the_page_has_the_rows_of_its_file():
    page = tables.FILE.with_name("README.md").read_text()
    found = tables.load(tables.FILE)
    assert tables.fill(page, found) == page, "write_page has not run since"
    assert set(found) <= {row for rows in tables.TABLES.values() for row in rows}
    for name in tables.TABLES:
        assert page.count(tables._begin(name)) == 1
    for made in found.values():
        assert made["made"] in page and made["versions"]["libtpu"] in page


def test_each_row_has_its_cells_date_and_versions():
    assert tables.cells("cover_l", PLAN) == [CELLS]
    found = {ROW: {"made": "2026-11-30", "versions": {"jax": "0.10.2", "libtpu": "0.0.42"}, "cells": [CELLS]}}
    *_, last = tables.render("cover_l", found).splitlines()
    assert [cell.strip() for cell in last.strip("|").split("|")] == [*CELLS, "2026-11-30", "jax 0.10.2, libtpu 0.0.42"]


def test_a_mix_has_a_line_per_kind_of_step():
    of_clips, mean = tables.cells("cover_l, the whole mix", PLAN)
    assert of_clips[:4] == ["v4:4x4x4", "k400, mit", "100%", "327"]
    assert mean == ["v4:4x4x4", "all", "100%", "327", "41.2 / 40.1 / 38.5 %"]


def test_the_same_command_continues(rows, tmp_path):
    path = tmp_path / "made.json"
    with pytest.raises(KeyboardInterrupt):
        make(rows, path, interrupted_at="--x=2")
    assert list(tables.load(path)) == ["--x=1"]
    make(rows, path)
    make(rows, path)
    assert rows == ["--x=1", "--x=2", "--x=2", "--x=3"]
    page = tmp_path.joinpath("made.md").read_text()
    assert page.count("| v4:4x4x4") == 4 and page.count("| 0.25 to 0.45 | 0.50 to 0.70 |") == 1


def test_a_row_of_other_versions_is_made_anew(rows, tmp_path):
    path = tmp_path / "made.json"
    make(rows, path)
    found = tables.load(path)
    found["--x=2"]["versions"]["libtpu"] = "0.0.1"
    path.write_text(json.dumps(found))
    make(rows, path)
    assert rows == ["--x=1", "--x=2", "--x=3", "--x=2"]


def test_a_page_keeps_its_text_around_the_tables():
    text = f"# A\n\n{tables._begin('cover_l')}\nold\n{tables._END}\n\nend\n"
    filled = tables.fill(text, {})
    assert filled.startswith("# A\n\n<!-- table") and filled.endswith(f"{tables._END}\n\nend\n")
    assert "old" not in filled and tables.fill(filled, {}) == filled
