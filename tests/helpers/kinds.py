"""Values that are known to be of a kind, or to be there: the test fails where they are not, and types follow."""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")


def of_kind(value: object, kind: type[T]) -> T:
    """Return a value that must be of a kind, as the method of a configuration."""
    assert isinstance(value, kind), f"{value!r} is no {kind.__name__}"
    return value


def some(value: T | None) -> T:
    """Return a value that must not be None."""
    assert value is not None
    return value


def untyped(thing: Any) -> Any:
    """Return a thing without its types: a call of it may be wrong, and is expected to be refused."""
    return thing
