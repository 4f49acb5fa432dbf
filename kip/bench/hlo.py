"""Bytes that a compiled program of XLA's moves, with its loops counted as often as they turn.

XLA's own `cost_analysis` counts the body of a loop once, so that of a block in chunks it sees one chunk. The text of
the compiled program (`Compiled.as_text()`) says all that is needed: each instruction of a computation that is not fused
reads its operands from memory and writes its result there.
"""

from __future__ import annotations

import re
from typing import NamedTuple

BYTES = {"pred": 1, "bf16": 2, "c64": 8, "c128": 16}
"""Bytes of the element types whose name does not tell their bits."""
NO_KERNEL = frozenset(
    (
        *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "iota"),
        *("async-start", "async-done", "copy-start", "copy-done", "slice-start", "slice-done", "opt-barrier"),
    )
)
"""Instructions that move nothing by themselves."""
SLICES = frozenset(("dynamic-slice", "slice", "gather"))
"""Instructions that read as much of their first operand as they write."""

_ARRAY = re.compile(r"\b(pred|bf16|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (\([^=]*?\)|\S+) ([a-z][\w\-]*)\((.*)$")
_CALLED = re.compile(
    r"(?:to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)|branch_computations=\{(.*?)\}"
)


class Instruction(NamedTuple):
    """A line of a computation.

    Attributes:
        opcode: its kind, such as `fusion`.
        size: the bytes of its result.
        operands: the names of what it takes.
        text: what stands behind its opcode: operands and attributes.
    """

    opcode: str
    size: int
    operands: list[str]
    text: str


Computation = dict[str, Instruction]


def bytes_moved(text: str) -> int | None:
    """Return the bytes that a program reads and writes in a call; None where a loop does not say how often it turns.

    Args:
        text: the compiled program, as `jax.stages.Compiled.as_text` gives it.
    """
    computations, entry = parse(text)
    try:
        return _total(computations, entry, {})
    except _NoCount:
        return None


def launches(text: str) -> int | None:
    """Return how many kernels a program launches; None where a loop does not say how often it turns."""
    computations, entry = parse(text)
    try:
        return _launched(computations, entry)
    except _NoCount:
        return None


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """Return the computations of a program by name, and the name of the one that it begins with."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if head := _COMPUTATION.match(line):
            current = computations[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif (found := _INSTRUCTION.match(line)) and current is not None:
            operands = re.findall(r"%([\w.\-]+)", re.split(r"\), |\)$", found[5])[0])
            current[found[2]] = Instruction(found[4], _size(found[3]), operands, found[5])
    return computations, entry


class _NoCount(Exception):
    """A loop does not say how often it turns."""


def _size(shape: str) -> int:
    total = 0
    for name, bits, dimensions in _ARRAY.findall(shape):
        count = 1
        for dimension in filter(None, dimensions.split(",")):
            count *= int(dimension)
        total += count * BYTES.get(name, int(bits or 8) // 8)
    return total


def _total(computations: dict[str, Computation], name: str, known: dict[str, int]) -> int:
    if name not in known:
        known[name] = sum(_moved(computations, computations[name], one, known) for one in computations[name].values())
    return known[name]


def _moved(computations: dict[str, Computation], within: Computation, one: Instruction, known: dict[str, int]) -> int:
    if one.opcode == "while":
        body = re.search(r"body=%?([\w.\-]+)", one.text)
        assert body is not None
        return _turns(computations, one) * _total(computations, body[1], known)
    called = [
        name for single, several in _CALLED.findall(one.text) for name in re.findall(r"[\w.\-]+", single or several)
    ]
    if one.opcode in ("call", "conditional", "async-start"):
        return sum(_total(computations, name, known) for name in called)
    if one.opcode in NO_KERNEL:
        return 0
    if one.opcode == "fusion":
        return _of_fusion(computations[called[0]], one.size)
    operands = [within[name].size for name in one.operands if name in within]
    if one.opcode in SLICES:
        return 2 * one.size
    if one.opcode == "dynamic-update-slice":
        return 2 * operands[1]
    return one.size + sum(operands)


def _launched(computations: dict[str, Computation], name: str) -> int:
    total = 0
    for one in computations[name].values():
        if one.opcode == "while":
            body = re.search(r"body=%?([\w.\-]+)", one.text)
            assert body is not None
            total += _turns(computations, one) * _launched(computations, body[1])
        elif one.opcode in ("call", "conditional"):
            total += sum(_launched(computations, called) for called in _called(one))
        else:
            total += one.opcode not in NO_KERNEL
    return total


def _called(one: Instruction) -> list[str]:
    """Return the names of the computations that an instruction calls, but for a loop's."""
    found = _CALLED.findall(one.text)
    return [name for single, several in found for name in re.findall(r"[\w.\-]+", single or several)]


def _turns(computations: dict[str, Computation], loop: Instruction) -> int:
    """Return how often a loop turns: what XLA notes, or else the one number that its condition compares with."""
    if noted := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.text):
        return int(noted[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.text)
    assert condition is not None
    inside = [computations[condition[1]]]
    inside += [computations[name] for one in inside[0].values() for name in _called(one)]
    numbers = {
        int(number[1])
        for computation in inside
        for one in computation.values()
        if one.opcode == "constant" and (number := re.match(r"(\d+)\)", one.text))
    }
    if len(numbers) != 1:
        raise _NoCount
    return numbers.pop()


def _of_fusion(fused: Computation, written: int) -> int:
    """Return the bytes that a fusion reads of its parameters, of some of them slices alone, and writes."""
    same = {name: name for name, one in fused.items() if one.opcode == "parameter"}
    """The parameter that a name stands for."""
    read = dict.fromkeys(same, 0)
    updated = 0
    for name, one in fused.items():
        if one.opcode == "bitcast" and one.operands[0] in same:
            same[name] = same[one.operands[0]]
            continue
        for place, operand in enumerate(one.operands):
            if operand not in same:
                continue
            parameter = same[operand]
            if one.opcode == "dynamic-update-slice" and place == 0:  # it is written in place
                continue
            read[parameter] += one.size if one.opcode in SLICES and place == 0 else fused[parameter].size
        if one.opcode == "dynamic-update-slice" and one.operands[0] in same and one.operands[1] in fused:
            updated += fused[one.operands[1]].size
    return sum(min(size, fused[name].size) for name, size in read.items()) + (updated or written)
