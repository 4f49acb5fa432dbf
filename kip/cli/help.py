"""Help texts as people read them: whole paragraphs, metavars that are words, and no default that is not one.

tyro makes the help from annotations and docstrings. Here its rules for dataclasses, and the functions of commands, are
given the same texts with the line breaks of the source joined, and without `(default: None)`: what None stands for is
said by the text.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import io
import re
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

METAVARS: dict[Any, str] = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_asking: ContextVar[bool] = ContextVar("asking", default=False)


def registry() -> ConstructorRegistry:
    """Return a registry with which tyro describes dataclasses as this file says."""
    made = ConstructorRegistry()
    made.struct_rule(_struct)
    return made


def described(function: Callable[..., Any], like: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function with the options of another, described as this file says.

    Args:
        function: what is called with the options.
        like: whose annotations, defaults and docstring tell the options.
    """
    given: Any = functools.wraps(like)(function)
    del given.__wrapped__  # whose annotations would be taken
    hints = typing.get_type_hints(like, include_extras=True)
    given.__annotations__ = {name: _annotated(hint) for name, hint in hints.items()}
    signature = inspect.signature(like)
    given.__signature__ = signature.replace(
        parameters=[
            parameter.replace(annotation=given.__annotations__.get(name, parameter.annotation))
            for name, parameter in signature.parameters.items()
        ]
    )
    given.__doc__ = joined(inspect.cleandoc(like.__doc__ or ""))
    return given


def joined(text: str) -> str:
    r"""Return a text whose paragraphs are one line each; indented examples, and lists of options, keep their lines.

    >>> joined("One\ntwo.\n\n    an example")
    'One two.\n\n    an example'
    """
    lines: list[str] = []
    for line in text.splitlines():
        before = lines[-1] if lines else ""
        begins = not line.strip() or not before.strip() or before.endswith("Args:") or line == "Args:"
        indent, indent_before = _indent(line), _indent(before)
        is_entry = re.match(r" *\w+: ", line) is not None and indent == 4
        if begins or is_entry or (indent >= 4 and indent <= indent_before and not re.match(r" *\w+: ", before)):
            lines.append(line)
        else:
            lines[-1] = f"{before} {line.strip()}"
    return "\n".join(lines)


class _Page(io.StringIO):
    """A page of help that is held back while it is printed; it is as much of a terminal as stdout."""

    encoding = "utf-8"  # by which tyro draws its boxes

    def isatty(self) -> bool:
        return sys.__stdout__ is not None and sys.__stdout__.isatty()


@contextmanager
def arranged(first: str | None = None) -> Iterator[None]:
    """Print a help text with its introduction wrapped, and one group of options before the others.

    Args:
        first: the beginning of that group's title; None leaves the order.
    """
    page = _Page()
    try:
        with contextlib.redirect_stdout(page):
            yield
    finally:
        if text := page.getvalue():
            print(in_order(wrapped(text), first), end="")


def wrapped(text: str) -> str:
    """Return a text with its long lines wrapped to the terminal's width, 100 letters at most; examples stay."""
    width = min(100, shutil.get_terminal_size().columns)
    lines = [
        line if line.startswith(" ") or len(COLOURS.sub("", line)) <= width else textwrap.fill(line, width)
        for line in text.split("\n")
    ]
    return re.sub(r"\n\n\n+(?= )", "\n\n", "\n".join(lines))


def in_order(text: str, first: str | None) -> str:
    """Return a help text with the boxes whose titles begin with `first` before the others.

    Boxes that stand beside each other, on a wide terminal, stay where they are.
    """
    head, boxes, tail = [], [], []
    for line in text.split("\n"):
        plain = COLOURS.sub("", line)
        if plain.count("╭") > 1:
            return text
        if plain.startswith("╭"):
            boxes.append((plain[1:].strip("─ "), [line]))
        elif not boxes:
            head.append(line)
        elif plain.startswith(("│", "╰")):
            boxes[-1][1].append(line)
        else:
            tail.append(line)
    if first is None or not boxes:
        return text
    chosen = sorted(boxes, key=lambda box: not box[0].startswith(first))  # which keeps the order of equals
    return "\n".join([*head, *(line for _, lines in chosen for line in lines), *tail])


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _struct(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Return tyro's own description of a dataclass, with the texts and annotations changed; None for other types."""
    if _asking.get() or not dataclasses.is_dataclass(info.type):
        return None
    with _others_asked():
        spec = ConstructorRegistry.get_struct_spec(info)
    if not isinstance(spec, StructConstructorSpec):
        return None
    return dataclasses.replace(spec, fields=tuple(map(_field, spec.fields)))


@contextmanager
def _others_asked() -> Iterator[None]:
    token = _asking.set(True)
    try:
        yield
    finally:
        _asking.reset(token)


def _field(field: StructFieldSpec) -> StructFieldSpec:
    text = field.helptext

    def whole() -> str | None:
        found = text() if callable(text) else text
        return None if found is None else re.sub(r"(?<!\n)\n(?!\n)", " ", found)

    return dataclasses.replace(field, type=_annotated(field.type), helptext=whole)


def _annotated(annotation: Any) -> Any:
    """Return an annotation that says how its default and its values are written."""
    has_own = any(getattr(part, "metavar", None) for part in get_args(annotation)[1:])
    name = None if has_own else metavar(annotation)
    return Annotated[annotation, tyro.conf.arg(help_behavior_hint=_default, metavar=name)]


def _default(label: str) -> str:
    """Return how a default is written: not at all where it is none, as then the text says what happens."""
    return "" if label in ("None", "") else f"(default: {label})"


def metavar(annotation: Any) -> str | None:
    """Return what stands for an option's value; None where tyro's own word is right, as for choices.

    >>> metavar(tuple[int, ...]), metavar(Union[float, None]), metavar(bool)
    ('[INT ...]', 'NUMBER', None)
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return metavar(parts[0])
    if origin in (Union, types.UnionType):
        kinds = [part for part in parts if part is not type(None)]
        return metavar(kinds[0]) if len(kinds) == 1 else None
    if origin is tuple and len(parts) == 2 and parts[1] is Ellipsis:
        inner = metavar(parts[0])
        return None if inner is None else f"[{inner} ...]"
    return METAVARS.get(annotation)
