"""The tables of this folder's README.md, each row with the date and the versions that made it.

`make` compiles one row after another and writes each at once to a JSON file, so that the same command continues after
an interruption: it leaves out the rows that the same versions made. `write_page` puts all rows of the file into the
page.
"""

import dataclasses
import datetime
import functools
import hashlib
import importlib.metadata
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

import cover_jax
from cover_jax.plan import table, topologies
from cover_jax.plan.step_time import StepTime
from cover_jax.plan.table import Plan
from data_pipelines import files
from data_pipelines.output import text_tables

FILE = pathlib.Path(__file__).parent / "tables.json"
_L = "--config=configs/cover_l.py"
_ONE_CLIP = "--datasets=k400 --clips_per_chip=1"

# Table -> its rows: what follows `python -m cover_jax.plan`; of a kernel its chip, axis, frames, tokens and channels of
# a head.
TABLES: dict[str, list[str]] = {
    "cover_l": [
        *(f"{_L} {_ONE_CLIP} --topology={topology}" for topology in ("v4:4x4x4", "v5e:16x16")),
        f"{_L} --datasets=k400 --clips_per_chip=4 --topology=v5e:16x16",
        *(f"{_L} {_ONE_CLIP} --topology={topology}" for topology in ("v5p:4x4x4", "v6e:16x16")),
    ],
    "cover_l on one chip": [
        f"{_L} {_ONE_CLIP} --topology=v5e:1x1 --config.mesh.fsdp=1",
        f"{_L} {_ONE_CLIP} --topology=v5e:1x1 --config.mesh.fsdp=1 --config.model.attention=einsum "
        "--config.model.remat=full",
    ],
    "cover_l, the whole mix": [f"{_L} --clips_per_chip=1 --topology=v5e:16x16"],
    "cover_b": [
        f"--config=configs/cover_b.py --datasets=k400 --clips_per_chip=4 --topology={topology}"
        for topology in ("v4:4x4x4", "v5e:16x16", "v5p:4x4x4", "v6e:16x16")
    ],
    **{
        name: [f"--config=configs/{name}.py --datasets=k400 --clips_per_chip=1 --topology=v5e:16x16"]
        for name in ("cover_h", "cover_g")
    },
    "kernels": [
        *(f"kernel {chip}:1x1 {size}" for size in ("space 16 1025 80", "space 16 785 64", "time 16 784 64")
          for chip in ("v5e", "v6e")),
        *(f"kernel {chip}:1x1x1 {size}" for size in ("space 16 1025 88", "time 16 784 64")
          for chip in ("v4", "v5p", "tpu7x")),
        "kernel v5e:1x1 time 64 784 64",
    ],
}  # fmt: skip
_SHOWN = ("topology", "mesh", "per device", "parameters", "optimizer", "activations", "peak", "host", "matmuls",
          "kernels", "elementwise", "transfers", "step", "MFU", "examples/s")  # fmt: skip
_MIX = ("topology", "steps on", "share", "step", "MFU")
_KERNELS = ("topology", "over", "frames", "tokens", "head", "forward", "backward")
# What decides about a row: folders of cover_jax, and the configs.
_SOURCES = ("config", "models", "parallel", "plan", "preprocess", "training", "../configs")


def make(plan: Callable[[str], Plan], kernel: Callable[..., Sequence[StepTime]], path: pathlib.Path) -> None:
    """Makes all rows that these versions have not made yet, and the page.

    Args:
        plan: what follows `python -m cover_jax.plan` -> the plan.
        kernel: topology, axis, frames, tokens, channels of a head -> times of the forward and the backward kernel.
        path: the JSON file. The page beside it is README.md for FILE, and has the file's name otherwise.
    """
    rows = [(name, row) for name, commands in TABLES.items() for row in commands]
    for number, (name, row) in enumerate(rows, 1):
        found, now = load(path), versions()
        if row in found and found[row]["versions"] == now:
            continue
        print(f"row {number} of {len(rows)}: {row}", file=sys.stderr, flush=True)
        if name == "kernels":
            shape = row.removeprefix("kernel ").split()
            lines, figures = _kernel_cells(shape, kernel(*shape[:2], *map(int, shape[2:]))), None
        else:
            made = plan(row)
            lines, figures = cells(name, made), dataclasses.asdict(made)
        today = datetime.date.today().isoformat()
        found[row] = {"made": today, "versions": now, "cells": lines, "plan": figures}
        files.write_whole(path, (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode())
    write_page(path)


def load(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Row -> when and with what it was made, and its cells. A file that does not exist has no rows."""
    form = {"made": str, "versions": {str: str}, "cells": [[str]]}
    found: dict[str, dict[str, Any]] = files.read_json(epath.Path(path), {str: form}) if path.exists() else {}
    return found


@functools.cache
def versions() -> dict[str, str]:
    """What decides about a row: the compiler, and this project's source."""
    digest = hashlib.sha256()
    package = pathlib.Path(cover_jax.__file__).parent
    for source in sorted(path for folder in _SOURCES for path in (package / folder).rglob("*.py")):
        digest.update(source.read_bytes())
    compiler = {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
    return compiler | {"cover-jax": cover_jax.__version__, "source": digest.hexdigest()[:8]}


def cells(name: str, plan: Plan) -> list[list[str]]:
    """The lines that a plan has in table `name`: one, or in the table of a mix one per kind of step and their mean."""
    of_plan = dict(zip(table.COLUMNS, table.row(plan), strict=True))
    if "mix" not in name:
        return [[of_plan[column] for column in _SHOWN]]
    chip = topologies.parse(plan.topology)[0]
    mean = [plan.topology, "all", "100%", of_plan["step"], of_plan["MFU"]]
    return [
        [plan.topology, ", ".join(program.counts_for), f"{program.share:.0%}", f"{program.step_ms:.0f}",
         table.mfu_cell(program.mfus(program.tflop, chip))]
        for program in plan.programs
    ] + [mean]  # fmt: skip


def _kernel_cells(shape: Sequence[str], times: Sequence[StepTime]) -> list[list[str]]:
    """The line of a kernel: its shape, and the time of each pass with and without a cost per grid step."""
    ranges = [f"{time.kernels_ms:.2f} to {time.kernels_ms + time.grid_steps_ms:.2f}" for time in times]
    return [[*shape, *ranges]]


def render(name: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """Table `name` in Markdown, of its rows that were made."""
    lines = [
        [*line, made["made"], ", ".join(f"{key} {value}" for key, value in made["versions"].items())]
        for row in TABLES[name] if (made := found.get(row)) for line in made["cells"]
    ]  # fmt: skip
    columns = [*(_KERNELS if name == "kernels" else _MIX if "mix" in name else _SHOWN), "made", "with"]
    return text_tables.markdown_table(columns, lines, left=2)


def write_page(path: pathlib.Path) -> None:
    """Puts the rows of a JSON file into the page beside it. A page that does not exist yet gets all tables."""
    page = path.parent / "README.md" if path == FILE else path.with_suffix(".md")
    if not page.exists():
        page.write_text("".join(f"## {name}\n\n{_begin(name)}\n{_END}\n\n" for name in TABLES))
    page.write_text(fill(page.read_text(), load(path)))


def fill(text: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """A page's text with each table between its marks made anew."""
    for name in TABLES:
        before, begin, rest = text.partition(_begin(name))
        _, end, after = rest.partition(_END)
        if begin and end:
            text = f"{before}{begin}\n\n{render(name, found)}\n\n{end}{after}"
    return text


_END = "<!-- end of table -->"


def _begin(name: str) -> str:
    return f"<!-- table, made by python -m cover_jax.plan: {name} -->"
