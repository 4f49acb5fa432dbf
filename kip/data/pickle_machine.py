"""A machine for pickles that calls nothing: their values are numbers, texts, bytes, lists, tuples and dictionaries.

A pickle is a program for a stack machine that imports and calls whatever it names. Here names stay names, and a call,
an attribute and an outside object are given to a `Vocabulary`, which makes arrays of them or refuses them. There is no
object whose attributes a pickle could set.

Work and memory are bounded: a structure has at most `OPERATIONS` instructions, each of which makes one value of less
than 100 bytes beside the bytes that the pickle has itself.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kip.errors import DataError

OPERATIONS = 500_000
"""The most instructions of a structure."""
ARGUMENTS = 16
"""The most arguments of a call."""
DEPTH = 50
"""Containers within each other."""
LARGEST_KEY = 2**31
"""Whole numbers below this are read as keys: a file could choose larger ones whose hashes are all equal."""


@dataclass(frozen=True)
class Name:
    """A name in a pickle, such as `torch.FloatStorage`, by which nothing is ever imported."""

    text: str


class LeftOut:
    """Stands for an object that is left out: None takes its place."""


class Unfinished:
    """Stands for a value that the pickle completes later.

    Attributes:
        value: what takes its place in the end.
    """

    value: Any = None


class Vocabulary(Protocol):
    """The names that a pickle may use."""

    def named(self, text: str) -> Name:
        """Return a name that is known, and refuse any other."""
        ...

    def called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """Return what a call gives."""
        ...

    def built(self, thing: Any, state: Any) -> None:
        """Complete a value that was made before by what the pickle calls its attributes."""
        ...

    def outside(self, pid: Any) -> Any:
        """Return the object that lies outside of the pickle under an identity."""
        ...


class _Mark:
    """Stands on the stack where a container begins."""


def run(path: Path, structure: bytes, vocabulary: Vocabulary) -> Any:
    """Return what a pickle makes, with None for what is left out.

    A container may hold another many times: whoever joins them counts first.

    Args:
        path: where it comes from, for errors.
        structure: the pickle.
        vocabulary: what it may name.

    Raises:
        DataError: if it is damaged, too long, or asks for what the vocabulary refuses.
    """
    machine = _Machine(path, vocabulary)
    for number, (operation, argument, _) in enumerate(pickletools.genops(io.BytesIO(structure))):
        name = operation.name
        if number >= OPERATIONS:
            raise machine.refused("its structure is too long", f"more than {OPERATIONS} instructions")
        if name in PUSHED:
            machine.push(argument)
        elif name in CONSTANTS:
            machine.push(CONSTANTS[name]())
        elif name in ACTIONS:
            ACTIONS[name](machine, argument)
        elif name == "STOP":
            return _plain(path, machine.pop())
        elif name not in ("PROTO", "FRAME"):
            raise machine.refused("it has an instruction that arrays do not need", name)
    raise machine.refused("its structure has no end")


def escaped(text: str) -> str:
    """Return the beginning of a text of the file, as a terminal may show it."""
    return text[:80].encode("unicode_escape").decode()


def entries(pairs: Iterable[tuple[Any, Any]]) -> dict[str | int, Any]:
    """Return a dictionary of keys and values; those under other keys than texts and whole numbers are left out."""
    return {key: value for key, value in pairs if isinstance(key, str) or _is_small(key)}


def _is_small(key: Any) -> bool:
    return isinstance(key, int) and abs(key) < LARGEST_KEY


class _Machine:
    """The stack, and what was made before.

    Args:
        path: as `run`.
        vocabulary: as `run`.
    """

    def __init__(self, path: Path, vocabulary: Vocabulary):
        self._path, self._vocabulary = path, vocabulary
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def refused(self, problem: str, got: str | None = None) -> DataError:
        """Return an error of this file."""
        return DataError(f"{self._path}: {problem}", got=got)

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def pop(self) -> Any:
        """Take a value from the stack."""
        value = self._stack.pop() if self._stack else _Mark()
        if isinstance(value, _Mark):
            raise self.refused("its structure takes a value that it has not made")
        return value

    def _top(self) -> Any:
        self.push(value := self.pop())
        return value

    def _since_mark(self) -> list[Any]:
        for place in range(len(self._stack) - 1, -1, -1):
            if isinstance(self._stack[place], _Mark):
                values = self._stack[place + 1 :]
                del self._stack[place:]
                return values
        raise self.refused("its structure takes a value that it has not made")

    def _pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _dup(self, _: Any) -> None:
        self.push(self._top())

    def _list(self, _: Any) -> None:
        self.push(self._since_mark())

    def _tuple(self, _: Any) -> None:
        self.push(tuple(self._since_mark()))

    def _tuple1(self, _: Any) -> None:
        self.push((self.pop(),))

    def _tuple2(self, _: Any) -> None:
        second, first = self.pop(), self.pop()
        self.push((first, second))

    def _tuple3(self, _: Any) -> None:
        third, second, first = self.pop(), self.pop(), self.pop()
        self.push((first, second, third))

    def _dict(self, _: Any) -> None:
        values = self._since_mark()
        self.push({})
        self._set(values)

    def _append(self, _: Any) -> None:
        self._extend([self.pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    def _extend(self, values: list[Any]) -> None:
        container = self._top()
        if isinstance(container, list):
            container.extend(values)
        elif not isinstance(container, LeftOut):
            raise self.refused("its structure appends to what is no list", type(container).__name__)

    def _setitem(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self._set([key, value])

    def _setitems(self, _: Any) -> None:
        self._set(self._since_mark())

    def _set(self, values: list[Any]) -> None:
        """Set entries of the dictionary on top: key, value, key, value."""
        container = self._top()
        if not isinstance(container, dict | LeftOut) or len(values) % 2:
            raise self.refused("its structure sets entries of what is no dictionary", type(container).__name__)
        if isinstance(container, dict):
            container.update(entries(zip(values[::2], values[1::2])))

    def _put(self, key: int) -> None:
        self._memo[key] = self._top()

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._top()

    def _get(self, key: int) -> None:
        if key not in self._memo:
            raise self.refused("its structure takes a value that it has not made")
        self.push(self._memo[key])

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.push(self._vocabulary.named(f"{module}.{name}"))

    def _stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise self.refused("it has a name that is no text", type(name).__name__)
        self.push(self._vocabulary.named(f"{module}.{name}"))

    def _reduce(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple) or len(arguments) > ARGUMENTS:
            raise self.refused("it calls what is no function", type(function).__name__)
        self.push(self._vocabulary.called(function.text, arguments))

    def _build(self, _: Any) -> None:
        state = self.pop()
        self._vocabulary.built(self._top(), state)

    def _binpersid(self, _: Any) -> None:
        self.push(self._vocabulary.outside(self.pop()))


PUSHED = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
"""Instructions that push their own argument."""
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "MARK": _Mark,
}
"""Instructions that push a value."""
ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "POP_MARK": _Machine._pop_mark,
    "DUP": _Machine._dup,
    "LIST": _Machine._list,
    "TUPLE": _Machine._tuple,
    "TUPLE1": _Machine._tuple1,
    "TUPLE2": _Machine._tuple2,
    "TUPLE3": _Machine._tuple3,
    "DICT": _Machine._dict,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._setitem,
    "SETITEMS": _Machine._setitems,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine._put),
    "MEMOIZE": _Machine._memoize,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine._get),
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine._reduce),
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._binpersid,
}
"""Carry out the other instructions."""


def _plain(path: Path, value: Any) -> Any:
    """Return a value in which the unfinished are complete, with None for what is left out."""
    made: dict[int, Any] = {}

    def plain(value: Any, depth: int) -> Any:
        if isinstance(value, Unfinished):
            return value.value
        if isinstance(value, LeftOut | Name):
            return None
        if not isinstance(value, list | tuple | dict):
            return value
        if depth == DEPTH:
            raise DataError(f"{path}: its containers lie too deep", expected=f"at most {DEPTH} within each other")
        if id(value) not in made:
            made[id(value)] = None  # a container that holds itself holds None there
            if isinstance(value, dict):
                made[id(value)] = {key: plain(part, depth + 1) for key, part in value.items()}
            else:
                made[id(value)] = type(value)([plain(part, depth + 1) for part in value])
        return made[id(value)]

    return plain(value, 0)
