"""The programs of a step of every method lower for accelerators that are not here; see `kernels/test_lowering.py`."""

import contextlib
import functools
import sys
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from jax import export
from jax.core import Tracer
from methods.test_contract import METHOD_VALUES

from helpers.lowering import CHOLESKY, PLATFORMS, SOLVERS, calls, precisions
from kip import placement
from kip.methods.kernel.label_solve import LabelSolve
from kip.methods.selection.selection import Selection
from kip.methods.unrolled.label_baseline import LabelBaseline
from kip.precision import float64

JITTED = type(jax.jit(lambda: 0))
WITHOUT = (LabelSolve, Selection, LabelBaseline)
"""Methods whose steps run no program of their own: they solve on the host, choose, or train a network."""


class Call(NamedTuple):
    """The shapes that a function was called with, and the settings of JAX that it was called under."""

    shapes: Any
    float64: bool
    precision: str | None


@pytest.fixture
def programs(monkeypatch):
    """The jitted functions of kip that a test calls, and their first calls."""
    found = {}

    def watched(function):
        @functools.wraps(function)
        def call(*arguments, **named):
            if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((arguments, named))):
                shapes = jax.tree.map(abstract, (arguments, named))
                config: Any = jax.config
                found.setdefault(function, Call(shapes, config.jax_enable_x64, config.jax_default_matmul_precision))
            return function(*arguments, **named)

        return call

    for module in [one for name, one in sys.modules.items() if name.startswith(("kip.methods", "kip.training"))]:
        for name, value in list(vars(module).items()):
            if isinstance(value, JITTED):
                monkeypatch.setattr(module, name, watched(value))
    return found


def abstract(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if isinstance(leaf, jax.Array | np.ndarray) else leaf


@pytest.mark.slow
@pytest.mark.parametrize("name", METHOD_VALUES)
def test_the_programs_of_a_step_lower(name, problem, shared_store, programs):
    method = METHOD_VALUES[name]
    prepared = method.prepare(problem, shared_store)
    state = method.init(problem, prepared)
    programs.clear()
    method.step(problem, prepared, state)
    assert bool(programs) is not isinstance(method, WITHOUT)
    jax.clear_caches()  # what was traced for the CPU
    for function, (shapes, in_float64, precision) in programs.items():
        arguments, named = shapes
        with (
            placement.made_for("gpu"),
            float64() if in_float64 else contextlib.nullcontext(),
            jax.default_matmul_precision(precision),
        ):
            text = export.export(function, platforms=PLATFORMS)(*arguments, **named).mlir_module()
        assert calls(text) <= SOLVERS
        assert "callback" not in text
        assert in_float64 or "f64" not in text
        if calls(text) & CHOLESKY:
            assert precisions(text) <= {"HIGHEST"}, "a regression, whose ridge TF32 leaves no digits"
