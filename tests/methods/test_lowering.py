"""The programs of a step of finite methods lower for accelerators that are not here; see `kernels/test_lowering.py`."""

import functools
import re
import sys

import jax
import numpy as np
import pytest
from jax import export
from jax.core import Tracer
from methods.test_contract import METHOD_VALUES

from kip import placement

PLATFORMS = ("cuda", "rocm", "tpu")
LIBRARIES = {"cusolver_potrf_ffi", "hipsolver_potrf_ffi", "Sharding", "shape_assertion"}
"""Calls that a step may make: the factorisation of ridge regression, and remarks for the compiler."""
JITTED = type(jax.jit(lambda: 0))


@pytest.fixture
def programs(monkeypatch):
    """The jitted functions of kip that a test calls, and the shapes that it calls them with."""
    calls = {}

    def watched(function):
        @functools.wraps(function)
        def call(*arguments, **named):
            leaves = jax.tree.leaves((arguments, named))
            if not any(isinstance(leaf, Tracer) for leaf in leaves):
                calls.setdefault(function, jax.tree.map(abstract, (arguments, named)))
            return function(*arguments, **named)

        return call

    for module in [one for name, one in sys.modules.items() if name.startswith(("kip.methods", "kip.training"))]:
        for name, value in list(vars(module).items()):
            if isinstance(value, JITTED):
                monkeypatch.setattr(module, name, watched(value))
    return calls


def abstract(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if isinstance(leaf, jax.Array | np.ndarray) else leaf


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DC", "DM", "LD", "FRePo"])
def test_the_programs_of_a_step_lower(name, problem, shared_store, programs):
    method = METHOD_VALUES[name]
    prepared = method.prepare(problem, shared_store)
    state = method.init(problem, prepared)
    programs.clear()
    method.step(problem, prepared, state)
    assert programs, "a step without a program of its own"
    jax.clear_caches()  # what was traced for the CPU
    for function, (arguments, named) in programs.items():
        with placement.made_for("gpu"):
            text = export.export(function, platforms=PLATFORMS)(*arguments, **named).mlir_module()
        assert set(re.findall(r"custom_call @(\w+)", text)) <= LIBRARIES
        assert "callback" not in text
