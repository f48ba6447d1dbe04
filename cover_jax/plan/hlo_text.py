"""The text of a compiled program (`compiled.as_text()`): its computations, and the parts of an instruction."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{\s*$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"(?:^|[\s)}\]])([a-z][a-z0-9\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8, "f64": 8}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation: `%name = rest`."""

    name: str
    rest: str

    @functools.cached_property
    def opcode(self) -> str:
        """Such as "fusion"; "" if there is none."""
        found = _OPCODE.search(self.rest)
        return found[1] if found else ""

    @property
    def result(self) -> str:
        """The type of its result."""
        return self.rest[: self._call.start(1)]

    @property
    def operands(self) -> list[str]:
        """The names of its operands."""
        after = self.rest[self._call.end() :]
        return re.findall(r"%([\w.\-]+)", after[: after.index(")")])

    @functools.cached_property
    def called(self) -> str | None:
        """The computation of a fusion, or None."""
        found = re.search(r"calls=%?([\w.\-]+)", self.rest)
        return found[1] if found else None

    def attribute(self, name: str) -> str:
        """The value of an attribute that it must have."""
        found = re.search(rf"{name}=%?([\w.\-]+)", self.rest)
        assert found, f"an instruction without {name}: {self.rest}"
        return found[1]

    @property
    def _call(self) -> re.Match[str]:
        found = _OPCODE.search(self.rest)
        assert found, f"an instruction without an opcode: {self.rest}"
        return found


@dataclasses.dataclass(frozen=True)
class Module:
    """A program.

    Attributes:
        computations: name -> its instructions.
        entry: name of the computation that runs first.
        num_devices: devices that run it together; None: the text does not say.
    """

    computations: dict[str, list[Instruction]]
    entry: str
    num_devices: int | None

    def inside(self, computation: str) -> Iterator[Instruction]:
        """The instructions of a computation and of the fusions in it."""
        for instruction in self.computations[computation]:
            yield instruction
            if instruction.called:
                yield from self.inside(instruction.called)


def parse(text: str) -> Module:
    """A program from its text."""
    computations: dict[str, list[Instruction]] = {}
    entry, body = "", None
    text = re.sub(r"kernel_metadata=\{\n(.*?)\n\}", r"kernel_metadata={\1}", text)  # the only multi-line attribute
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            body = computations[start[1]] = []
            entry = start[1] if line.startswith("ENTRY") else entry
        elif line.rstrip() == "}":
            body = None
        elif body is not None and (found := _INSTRUCTION.match(line)):
            body.append(Instruction(found[1], found[2]))
    return Module(computations, entry, _num_devices(text.partition("\n")[0]))


def _num_devices(header: str) -> int | None:
    counts = re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", header)
    return math.prod(map(int, counts)) if counts else None


def without_layout(types: str) -> str:
    """A type without the layouts of its arrays."""
    return re.sub(r"\{[^}]*\}", "", types).strip()


def sizes(types: str) -> list[int]:
    """Bytes of each array of a type."""
    arrays = [(_BYTES.get(dtype, 4), shape.split(",")) for dtype, shape in _ARRAY.findall(types)]
    return [itemsize * math.prod(int(length) for length in shape if length) for itemsize, shape in arrays]
