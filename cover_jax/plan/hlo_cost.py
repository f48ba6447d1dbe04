"""Cost of a compiled TPU program, read from its text: the compiler's own estimates, kernels and collectives.

Every TPU instruction has `estimated_cycles` from the compiler's cost model. This module adds three missing parts: how
often loops run, Pallas kernels, and the transfers between chips (`collectives`).
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from cover_jax.plan import collectives, hlo_text
from cover_jax.plan.hlo_text import Instruction, Module


@dataclasses.dataclass(frozen=True)
class Work:
    """One instruction of the program that has a cost.

    Attributes:
        name: name of the instruction.
        kind: "matmul", "elementwise", "kernel" (Pallas) or "collective".
        trips: how often it runs per call of the program.
        cycles: per run: the compiler's estimate; 0 for kernels and collectives.
        bytes: per run: bytes that a kernel reads and writes, or that a collective moves over one chip's ring.
        grid_steps: number of grid steps of a kernel.
        program: for a kernel: its function and the types of its arrays. Equal kernel programs are compiled once.
        op_name: its origin in the JAX program.
        is_async: a collective that can hide behind other work.
    """

    name: str
    kind: str
    trips: int
    op_name: str
    cycles: int = 0
    bytes: int = 0
    grid_steps: int = 0
    program: tuple[str, ...] = ()
    is_async: bool = False


def read(text: str) -> list[Work]:
    """All work of a compiled program.

    Args:
        text: `compiled.as_text()`.

    Raises:
        UnknownCollectiveError: a collective is written in a form that is not known.
    """
    module = hlo_text.parse(text)
    collectives.check_chains(module)
    with_matmul = {
        name
        for name, body in module.computations.items()
        if any(instruction.opcode in ("convolution", "dot") for instruction in body)
    }
    return list(_walk(module.entry, 1, module, with_matmul))


def kernel_bundles(folder: pathlib.Path, work: list[Work]) -> dict[tuple[str, ...], int]:
    """`Work.program` -> instruction bundles per grid step (one cycle each), from the compiler's schedules.

    The compiler writes each program once, under the name of one instruction that runs it. The memory space of its
    result does not matter: with a result in fast memory it is the same program.

    Args:
        folder: where libtpu wrote its schedules of this program only (topologies.use_compiler_only).
        work: of the program.
    """
    noted = {}
    for path in folder.glob("*schedule-analysis_final_bundles.txt"):
        match = re.search(r"total scheduled bundles:\s*(\d+)", path.read_text())
        name = re.fullmatch(r"\d+-(.+)-\d+-schedule-analysis_final_bundles\.txt", path.name)
        if match and name:
            noted[name[1]] = int(match[1])
    return {one.program: noted[one.name] for one in work if one.kind == "kernel" and one.name in noted}


def _walk(computation: str, trips: int, module: Module, with_matmul: set[str]) -> Iterator[Work]:
    for instruction in module.computations[computation]:
        for one in collectives.of(instruction, module):
            yield _work(instruction, "collective", trips, name=one.name, bytes=one.bytes, is_async=one.is_async)
        match instruction.opcode:
            case "while":
                count = _trip_count(module.computations[instruction.attribute("condition")])
                yield from _walk(instruction.attribute("body"), trips * count, module, with_matmul)
            case "call" | "conditional":
                for called in _called(instruction):
                    yield from _walk(called, trips, module, with_matmul)
            case _:
                yield from _computed(instruction, computation, trips, module, with_matmul)


def _called(instruction: Instruction) -> list[str]:
    found = re.findall(r"(?:to_apply|true_computation|false_computation)=%?([\w.\-]+)", instruction.rest)
    branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
    return found + (re.findall(r"[\w.\-]+", branches[1]) if branches else [])


def _computed(
    instruction: Instruction, computation: str, trips: int, module: Module, with_matmul: set[str]
) -> Iterator[Work]:
    """The work that a chip computes itself."""
    if 'custom_call_target="tpu_custom_call"' in instruction.rest:
        types = {other.name: other.result for other in module.computations[computation]}
        arrays = [instruction.result, *(types[operand] for operand in instruction.operands)]
        grid = re.search(r'"grid_steps":"(\d+)"', instruction.rest)
        yield _work(
            instruction, "kernel", trips, bytes=sum(sum(hlo_text.sizes(array)) for array in arrays),
            grid_steps=int(grid[1]) if grid else 1, program=_kernel_program(instruction),
        )  # fmt: skip
    elif cycles := re.search(r'"estimated_cycles":"(\d+)"', instruction.rest):
        matmul = instruction.opcode in ("convolution", "dot") or instruction.called in with_matmul
        yield _work(instruction, "matmul" if matmul else "elementwise", trips, cycles=int(cycles[1]))


def _kernel_program(instruction: Instruction) -> tuple[str, ...]:
    operands = re.search(r"operand_layout_constraints=\{(.*?\})\}", instruction.rest)
    function = re.sub(r"\.\d+$", "", instruction.name)
    return function, hlo_text.without_layout(instruction.result), operands[1] if operands else ""


def _work(instruction: Instruction, kind: str, trips: int, *, name: str = "", **costs: Any) -> Work:
    op_name = re.search(r'op_name="([^"]*)"', instruction.rest)
    return Work(name or instruction.name, kind, trips, op_name=op_name[1] if op_name else "", **costs)


def _trip_count(condition: list[Instruction]) -> int:
    """Number of iterations. Loops of jax.lax.scan count from 0 to a constant in their condition."""
    constants = [int(n) for one in condition for n in re.findall(r"constant\((\d+)\)", one.rest)]
    return max(constants, default=1)
