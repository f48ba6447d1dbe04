"""The transfers between chips in a compiled TPU program: how many bytes, and which of them can hide behind other work.

A transfer hides behind other work if the compiler made it asynchronous: an instruction `all-gather-start`, or a fusion
`async-collective-start` that other fusions carry on and a last one ends. All of them hold the same collective and have
the same `chain_id`; it is counted once, where it starts. `async_collective_name` is the former name of a collective
that the compiler has made synchronous again.
"""

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cover_jax import errors
from cover_jax.plan import hlo_text
from cover_jax.plan.hlo_text import Instruction, Module

_KNOWN = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_UNKNOWN = ("collective-broadcast", "ragged-all-to-all", "send", "recv")
_START = "async-collective-start"


class UnknownCollectiveError(ValueError):
    """A collective is written in a form that this module does not know. The message has its line."""

    exit_code = errors.FAILED


class Collective(NamedTuple):
    """One transfer.

    Attributes:
        name: its name in the program.
        bytes: over each link of a ring of the participating chips.
        is_async: it can hide behind other work.
    """

    name: str
    bytes: int
    is_async: bool


def of(instruction: Instruction, module: Module) -> list[Collective]:
    """The collectives that begin with an instruction, in fusions too.

    Raises:
        UnknownCollectiveError: its operation or its groups are not known.
    """
    opcode = instruction.opcode
    if _base(opcode):
        return [Collective(instruction.name, _ring_bytes(instruction, module), opcode.endswith("-start"))]
    if opcode == "async-start" and instruction.called:
        return list(_inside(module, instruction.called, is_async=True))
    if opcode == "fusion" and instruction.called:
        starts = instruction.name.startswith(_START) or _starts_chain(module.computations[instruction.called])
        if starts or not instruction.name.startswith("async-collective-done"):
            return list(_inside(module, instruction.called, is_async=starts))
    return []


def check_chains(module: Module) -> None:
    """Checks that every asynchronous collective that is carried on is also started, so that it is counted.

    Raises:
        UnknownCollectiveError: one is not started.
    """
    everywhere = [instruction for body in module.computations.values() for instruction in body]
    starts = {instruction.called for instruction in everywhere if instruction.name.startswith(_START)}
    started, carried = set(), {}
    for name, body in module.computations.items():
        is_start = name in starts or _starts_chain(body)
        for instruction in body:
            if _base(instruction.opcode) and (chain := _chain(instruction)):
                carried[chain] = instruction
                started |= {chain} if is_start else set()
    for chain in carried.keys() - started:
        raise UnknownCollectiveError(f"no fusion starts this collective: {_line(carried[chain])}")


def _base(opcode: str) -> str:
    """The operation of a collective's opcode, "" for any other."""
    base = opcode.removesuffix("-start")
    return base if base in _KNOWN + _UNKNOWN else ""


def _starts_chain(body: Iterable[Instruction]) -> bool:
    return any('custom_call_target="AsyncCollectiveStart"' in instruction.rest for instruction in body)


def _inside(module: Module, computation: str, is_async: bool) -> Iterator[Collective]:
    scatters = computation.startswith("all-reduce-scatter")  # each chip keeps only its part of the sum
    for instruction in module.inside(computation):
        if _base(instruction.opcode) and (is_async or not _chain(instruction)):
            bytes = _ring_bytes(instruction, module)
            yield Collective(instruction.name, bytes // 2 if scatters else bytes, is_async)


def _chain(instruction: Instruction) -> str | None:
    found = re.search(r'chain_id="(\w+)"', instruction.rest)
    return found[1] if found else None


def _ring_bytes(instruction: Instruction, module: Module) -> int:
    """Bytes over each link of a ring of the participating chips.

    With n chips, a gather or scatter moves the array once except its own n-th part. A reduction moves twice as much.
    """
    opcode, sizes = instruction.opcode, hlo_text.sizes(instruction.result)
    match opcode:
        case "all-gather-start":  # returns its operands and its results
            whole = sum(sizes[len(sizes) // 2 :])
        case "all-reduce-start":  # returns its results, as all-reduce does
            whole = sum(sizes)
        case _:  # other start operations return their operand and their result: the larger one is the moved array
            whole = max(sizes, default=0) if opcode.endswith("-start") else sum(sizes)
    if opcode.removesuffix("-start") == "collective-permute":
        return whole
    chips = _group_size(instruction, module)
    match opcode.removesuffix("-start"):
        case "all-reduce":
            return 2 * whole * (chips - 1) // chips
        case "reduce-scatter" if not opcode.endswith("-start"):
            return whole * (chips - 1)
        case "all-gather" | "reduce-scatter" | "all-to-all":
            return whole * (chips - 1) // chips
    raise UnknownCollectiveError(f"an operation between chips that the plan does not know: {_line(instruction)}")


def _group_size(instruction: Instruction, module: Module) -> int:
    """Chips per group. Without groups, all chips form one.

    The forms: `[groups,chips]<=[...]`, `{{0,1},{2,3}}`, and `mesh['a'=8,'b'=32] {'a'}`: the chips along axis a, where
    `'a':(2)4` is a part of an axis, 4 chips.
    """
    rest = instruction.rest
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]<=", rest):
        return int(found[1])
    if found := re.search(r"replica_groups=\{(\{[\d,]+\}(?:,\{[\d,]+\})*)\}", rest):
        return max(group.count(",") + 1 for group in found[1].split("},{"))
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(.*?\))? \{([^{}]*)\}", rest):
        return _chips_along(found[1], found[2], instruction)
    if ("replica_groups=" not in rest or "replica_groups={}" in rest) and module.num_devices:
        return module.num_devices
    raise UnknownCollectiveError(f"groups of chips in a form that the plan does not know: {_line(instruction)}")


def _chips_along(mesh: str, axes: str, instruction: Instruction) -> int:
    """Product of the sizes of `axes`, such as `'a','b':(1)2`, of a mesh, such as `'a'=8,'b'=32`."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    wanted = re.fullmatch(r"'[^']+'(:\(\d+\)\d+)?(,\s*'[^']+'(:\(\d+\)\d+)?)*", axes)
    named = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", axes)
    if not wanted or any(name not in sizes for name, _ in named):
        raise UnknownCollectiveError(f"axes in a form that the plan does not know: {_line(instruction)}")
    return math.prod(int(part) if part else sizes[name] for name, part in named)


def _line(instruction: Instruction) -> str:
    return f"%{instruction.name} = {instruction.rest}"
