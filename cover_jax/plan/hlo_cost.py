"""Cost of a compiled TPU program, read from its text: the compiler's own estimates, kernels and collectives.

Every TPU instruction has `estimated_cycles` from the compiler's cost model. This module adds three missing parts: how
often loops run, Pallas kernels, and the transfer time between chips.
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Iterator

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{\s*$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"(?:^|[\s)}\]])([a-z][a-z0-9\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8, "f64": 8}
_COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


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
    """

    name: str
    kind: str
    trips: int
    cycles: int
    bytes: int
    grid_steps: int
    program: tuple[str, ...]
    op_name: str


def read(text: str) -> list[Work]:
    """All work of a compiled program.

    Args:
        text: `compiled.as_text()`.
    """
    computations, entry = _parse(text)
    with_matmul = {
        name for name, body in computations.items() if any(_opcode(rest) in ("convolution", "dot") for _, rest in body)
    }
    return list(_walk(entry, 1, computations, with_matmul))


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


def _parse(text: str) -> tuple[dict[str, list[tuple[str, str]]], str]:
    """Computation -> its list of (instruction, rest of the line), and the name of the entry computation."""
    computations: dict[str, list[tuple[str, str]]] = {}
    entry, body = "", None
    text = re.sub(r"kernel_metadata=\{\n(.*?)\n\}", r"kernel_metadata={\1}", text)  # the only multi-line attribute
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            body = computations[start[1]] = []
            entry = start[1] if line.startswith("ENTRY") else entry
        elif line.rstrip() == "}":
            body = None
        elif body is not None and (found := _INSTRUCTION.match(line)):
            body.append((found[1], found[2]))
    return computations, entry


def _walk(computation: str, trips: int, computations, with_matmul) -> Iterator[Work]:
    for name, rest in computations[computation]:
        opcode = _opcode(rest)
        if opcode == "while":
            count = _trip_count(computations[_attribute(rest, "condition")])
            yield from _walk(_attribute(rest, "body"), trips * count, computations, with_matmul)
        elif opcode in ("call", "conditional"):
            for called in re.findall(r"(?:to_apply|true_computation|false_computation)=%?([\w.\-]+)", rest):
                yield from _walk(called, trips, computations, with_matmul)
        elif opcode.removesuffix("-start") in _COLLECTIVES:
            yield _work(name, "collective", trips, rest, bytes=_collective_bytes(opcode, rest))
        elif 'custom_call_target="tpu_custom_call"' in rest:
            grid = re.search(r'"grid_steps":"(\d+)"', rest)
            size = _array_bytes(_result(rest)) + sum(
                _array_bytes(_result(dict(computations[computation])[operand]))
                for operand in re.findall(r"%([\w.\-]+)", _operands(rest))
            )
            operands = re.search(r"operand_layout_constraints=\{(.*?\})\}", rest)
            program = (re.sub(r"\.\d+$", "", name), _without_layout(_result(rest)), operands[1] if operands else "")
            steps = int(grid[1]) if grid else 1
            yield _work(name, "kernel", trips, rest, bytes=size, grid_steps=steps, program=program)
        elif cycles := re.search(r'"estimated_cycles":"(\d+)"', rest):
            calls = re.search(r"calls=%?([\w.\-]+)", rest)
            matmul = opcode in ("convolution", "dot") or (calls and calls[1] in with_matmul)
            yield _work(name, "matmul" if matmul else "elementwise", trips, rest, cycles=int(cycles[1]))


def _work(
    name: str, kind: str, trips: int, rest: str, *, cycles=0, bytes=0, grid_steps=0, program: tuple[str, ...] = ()
) -> Work:
    op_name = re.search(r'op_name="([^"]*)"', rest)
    return Work(name, kind, trips, cycles, bytes, grid_steps, program, op_name[1] if op_name else "")


def _opcode(rest: str) -> str:
    found = _OPCODE.search(rest)
    return found[1] if found else ""


def _attribute(rest: str, name: str) -> str:
    found = re.search(rf"{name}=%?([\w.\-]+)", rest)
    assert found, f"an instruction without {name}: {rest}"
    return found[1]


def _trip_count(condition: list[tuple[str, str]]) -> int:
    """Number of iterations. Loops of jax.lax.scan count from 0 to a constant in their condition."""
    constants = [int(n) for _, rest in condition for n in re.findall(r"constant\((\d+)\)", rest)]
    return max(constants, default=1)


def _result(rest: str) -> str:
    """The type of an instruction's result."""
    return rest[: _called(rest).start(1)]


def _called(rest: str) -> re.Match[str]:
    """Finds the opcode of an instruction."""
    found = _OPCODE.search(rest)
    assert found, f"an instruction without an opcode: {rest}"
    return found


def _without_layout(types: str) -> str:
    return re.sub(r"\{[^}]*\}", "", types).strip()


def _operands(rest: str) -> str:
    after = rest[_called(rest).end() :]
    return after[: after.index(")")]


def _array_bytes(types: str) -> int:
    return sum(_sizes(types))


def _sizes(types: str) -> list[int]:
    """Bytes of each array of a type."""
    arrays = [(_BYTES.get(dtype, 4), shape.split(",")) for dtype, shape in _ARRAY.findall(types)]
    return [itemsize * math.prod(int(length) for length in shape if length) for itemsize, shape in arrays]


def _collective_bytes(opcode: str, rest: str) -> int:
    """Bytes over each link of a ring of the participating chips.

    With n chips, a gather or scatter moves the array once except its own n-th part. A reduction moves twice as much.
    """
    sizes = _sizes(_result(rest))
    # An asynchronous start operation returns its operand and its result. The larger one is the moved array.
    whole = max(sizes, default=0) if opcode.endswith("-start") else sum(sizes)
    chips = _group_size(rest)
    match opcode.removesuffix("-start"):
        case "collective-permute":
            return whole
        case "all-reduce":
            return 2 * whole * (chips - 1) // chips
        case "reduce-scatter" if not opcode.endswith("-start"):
            return whole * (chips - 1)
        case _:
            return whole * (chips - 1) // chips


def _group_size(rest: str) -> int:
    """Chips per group: `replica_groups=[groups,chips]<=[...]` or `{{0,1},{2,3}}`; without it, all chips."""
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(found[1])
    found = re.search(r"replica_groups=\{\{([\d,]+)\}", rest)
    return len(found[1].split(",")) if found else 2
