"""The platform that a program is made for: JAX traces a function before it knows where it will run.

Some functions take another form for CPUs than for accelerators. Where the images lie decides, and not the process: a
machine with a GPU may compute on its CPU, and programs may be made for a device that is not there.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

import jax

_TARGET: ContextVar[str | None] = ContextVar("target", default=None)
GPUS = ("cuda", "rocm")
"""Other names of the platform `gpu`."""

P = ParamSpec("P")
T = TypeVar("T")


def platform() -> str:
    """Return the platform that what is traced now is made for: `cpu`, `gpu` or `tpu`.

    It is that of `made_for`, or else that of JAX's default device.
    """
    target = _TARGET.get()
    if target is None:
        device = jax.config.jax_default_device  # type: ignore[attr-defined]
        target = jax.default_backend() if device is None else str(getattr(device, "platform", device))
    return "gpu" if target in GPUS else target


@contextlib.contextmanager
def made_for(target: str) -> Iterator[None]:
    """Let functions that are traced within be made for a platform."""
    token = _TARGET.set(target)
    try:
        yield
    finally:
        _TARGET.reset(token)


def placed(function: Callable[P, T], target: str) -> Callable[P, T]:
    """Return the function, which is made for a platform when it is traced."""

    @functools.wraps(function)
    def run(*arguments: P.args, **named: P.kwargs) -> T:
        with made_for(target):
            return function(*arguments, **named)

    return run
