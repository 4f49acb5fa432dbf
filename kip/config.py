"""Typed, frozen configuration values: unknown keys, wrong types and values out of range are refused when they are made.

Each stage keeps its own value beside its code (`kip.Data`, `kip.Architecture`, `kip.KIP`, ...); this file holds what
they share: the `value` decorator, and their JSON form. Validation is pydantic's, in strict mode: `steps="300"` is an
error and not a guess.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import reprlib
from collections.abc import Collection, Iterator
from typing import Any, TypeVar, cast

import pydantic
from pydantic.dataclasses import dataclass
from typing_extensions import dataclass_transform

from kip.errors import ConfigError, KipError

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def value(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose fields are checked on construction.

    Raises, from the constructor:
        ConfigError: for an unknown field, a wrong type or a value out of range, naming each.
    """
    made = dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))(cls)
    init = made.__init__

    @functools.wraps(init)
    def checked_init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            init(self, *args, **kwargs)
        except pydantic.ValidationError as error:
            names = [field.name for field in dataclasses.fields(self)]
            raise _in_our_voice(cls.__name__, error, {**dict(zip(names, args)), **kwargs}) from None

    made.__init__ = checked_init  # type: ignore[method-assign]
    return made  # type: ignore[return-value]


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as JSON-ready dictionaries and lists."""
    return pydantic.TypeAdapter(type(config)).dump_python(config, mode="json")


def from_json(kind: type[T], text: str | bytes, *, source: str) -> T:
    """Read a configuration of type `kind` from JSON text.

    Args:
        kind: a class made with `value`.
        text: what `json.dumps(to_dict(config))` wrote.
        source: where the text came from, for the error.

    Raises:
        ConfigError: if it is not JSON, has unknown keys, or a value does not fit.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_json(text)
    except pydantic.ValidationError as error:
        is_json = error.errors()[0]["type"] != "json_invalid"
        raise _in_our_voice(source, error, json.loads(text) if is_json else None) from None


def label(instance: Any, *, without: Collection[str] = ()) -> str:
    """Return a value's name and what differs from its defaults, such as `ConvNet-D3 width=32`.

    Args:
        instance: the value.
        without: fields that are left out.

    Floats have six digits: a label is read by people and tells no two values apart.
    """
    given = {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}
    default = {field.name: field.default for field in dataclasses.fields(instance)}
    named = [name for name in given if name not in ("name", *without)]
    changed = {name: given[name] for name in named if given[name] != default[name]}
    shown = {name: f"{setting:.6g}" if isinstance(setting, float) else setting for name, setting in changed.items()}
    return " ".join([instance.name, *(f"{name}={setting}" for name, setting in shown.items())])


def _in_our_voice(where: str, error: pydantic.ValidationError, given: Any) -> KipError:
    """Turn pydantic's error into ours: one line for each fault, with the path of the key in what was given."""
    lines: list[str] = []
    remedy = None
    for fault in _faults(error):
        kind, context = fault["type"], fault.get("ctx", {})
        cause, path = context.get("error"), _path(fault["loc"], given) or where
        if isinstance(cause, KipError):
            lines.append(str(cause).rstrip("."))
        elif kind in ("unexpected_keyword_argument", "extra_forbidden"):
            lines.append(f"unknown key {path!r}")
            remedy = "`kip distill CONFIG --help` lists the keys, for any CONFIG that `kip configs` lists."
        elif kind == "missing":
            lines.append(f"missing key {path!r}")
        elif kind == "json_invalid":
            lines.append(fault["msg"])
            remedy = "Write it as a run's config.json is written, or take that file."
        elif kind == "union_tag_invalid":
            key = context["discriminator"].strip("'")
            lines.append(f"{path}.{key}: got {context['tag']!r}; expected {context['expected_tags']}")
        elif kind != "too_short" or not fault["input"]:  # a tuple with a fault inside is called too short as well
            message = fault["msg"][0].lower() + fault["msg"][1:]
            lines.append(f"{path}: got {reprlib.repr(fault['input'])}; {message}")
    return ConfigError(f"invalid {where}: " + "; ".join(lines), remedy=remedy)


def _faults(error: pydantic.ValidationError, within: tuple[int | str, ...] = ()) -> Iterator[Any]:
    """Yield each fault with its whole path, also where another validator read a part and raised its faults."""
    for fault in error.errors():
        location = (*within, *fault["loc"])
        cause = fault.get("ctx", {}).get("error")
        if isinstance(cause, pydantic.ValidationError):
            yield from _faults(cause, location)
        else:
            yield {**fault, "loc": location}


def read(kind: type[T], given: dict[str, Any]) -> T:
    """Read a configuration of type `kind` from the dictionaries of JSON, inside a validator of another configuration.

    Raises:
        ValueError: pydantic's, whose faults the outer configuration's error names with their whole path.
    """
    return pydantic.TypeAdapter(kind).validate_json(json.dumps(given))


def _path(location: tuple[int | str, ...], given: Any) -> str:
    """Return the dotted path of a key; pydantic's counts positional arguments, and has tags for members of a union."""
    if not location:
        return ""
    if isinstance(given, dict) and isinstance(location[0], int) and location[0] < len(given):
        location = (list(given)[location[0]], *location[1:])
    parts = []
    for part in location[:-1]:
        if isinstance(given, dict) and part not in given:  # a tag
            continue
        parts.append(str(part))
        given = cast(Any, given)[part] if isinstance(given, dict | list | tuple) else None
    return ".".join([*parts, str(location[-1])])
