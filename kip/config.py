"""Typed, frozen configuration values: unknown keys, wrong types and values out of range are refused when they are made.

Each stage keeps its own value beside its code (`kip.Data`, `kip.Architecture`, `kip.KIP`, ...); this file holds what
they share: the `value` decorator, and their JSON form. Validation is pydantic's, in strict mode: `steps="300"` is an
error and not a guess.
"""

from __future__ import annotations

import functools
from typing import Any, TypeVar

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
    made = dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid", strict=True))(cls)
    init = made.__init__

    @functools.wraps(init)
    def checked_init(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            init(self, *args, **kwargs)
        except pydantic.ValidationError as error:
            raise _in_our_voice(cls.__name__, error) from None

    made.__init__ = checked_init  # type: ignore[method-assign]
    return made


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
        raise _in_our_voice(source, error) from None


def _in_our_voice(where: str, error: pydantic.ValidationError) -> KipError:
    """Turn pydantic's error into ours: one line for each fault, with the path of the key."""
    lines = []
    for fault in error.errors():
        cause = fault.get("ctx", {}).get("error")
        path = ".".join(str(part) for part in fault["loc"]) or where
        if isinstance(cause, KipError):
            lines.append(str(cause).rstrip("."))
        elif fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            lines.append(f"unknown key {path!r}")
        else:
            message = fault["msg"][0].lower() + fault["msg"][1:]
            lines.append(f"{path}: got {fault['input']!r}; {message}")
    return ConfigError(f"invalid {where}: " + "; ".join(lines))
