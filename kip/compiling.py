"""`jax.jit` whose compilations are made one at a time, for functions that several threads call.

With jaxlib 0.12 on CPython 3.13, and with 0.10.2 on 3.11, a process was seen to crash while a thread wrote what it had
compiled into JAX's compilation cache and another one compiled, were it only the slice of an array. Neither a stress
test nor 1080 small compilations in six threads repeated it, so that its cause is not known. What threads call here is
therefore compiled, and written to the cache, under one lock for the whole process. Calls that are compiled already take
no lock.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

_COMPILING = threading.RLock()  # a function may call another one while it is traced


def jit(
    function: Callable[..., Any], *, static_argnums: Sequence[int] = (), static_argnames: Sequence[str] = ()
) -> Callable[..., Any]:
    """Return `jax.jit(function)`, which compiles while no other function of this kind does.

    Args:
        function: a function of pytrees of arrays.
        static_argnums: the places of arguments that are static, as `jax.jit` has them; they are hashable.
        static_argnames: the names of keyword arguments that are static.
    """
    jitted = jax.jit(function, static_argnums=tuple(static_argnums), static_argnames=tuple(static_argnames))
    compiled: set[Any] = set()

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        static = tuple(arguments[place] for place in static_argnums), tuple(named.get(name) for name in static_argnames)
        dynamic = (
            [argument for place, argument in enumerate(arguments) if place not in static_argnums],
            {name: argument for name, argument in named.items() if name not in static_argnames},
        )
        leaves, structure = jax.tree.flatten(dynamic)
        if any(isinstance(leaf, Tracer) for leaf in leaves):  # another trace holds it; nothing is compiled
            return jitted(*arguments, **named)
        device = jax.config.jax_default_device  # type: ignore[attr-defined]
        known = (static, structure, device, jax.config.jax_enable_x64, *map(_kind, leaves))  # type: ignore[attr-defined]
        if known in compiled:
            return jitted(*arguments, **named)
        with _COMPILING:
            result = jitted(*arguments, **named)
        compiled.add(known)
        return result

    return call


def _kind(leaf: Any) -> Any:
    """Return what a program depends on in an array: its shape, dtype and devices."""
    if isinstance(leaf, jax.Array):
        return leaf.shape, leaf.dtype, leaf.sharding
    return np.shape(leaf), getattr(leaf, "dtype", type(leaf))
