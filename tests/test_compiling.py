"""Functions that threads call: the same results as `jax.jit`, and one compilation at a time."""

import threading
import time
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kip import compiling
from kip.precision import float64


def test_threads_compile_one_after_the_other():
    """Tracing runs Python, so that it can note who else is at it."""
    inside, together, lock = [0], [], threading.Lock()

    def function_of(number):
        def function(x):
            with lock:
                inside[0] += 1
                together.append(inside[0])
            time.sleep(0.05)
            with lock:
                inside[0] -= 1
            return x + number

        return compiling.jit(function)

    functions = [function_of(number) for number in range(6)]
    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(lambda function: float(function(np.float32(1))), functions))
    assert results == [1, 2, 3, 4, 5, 6]
    assert together == [1] * 6


def test_what_is_compiled_takes_no_lock():
    double = compiling.jit(lambda x: 2 * x)
    double(np.ones(3, np.float32))
    with ThreadPoolExecutor(1) as threads, compiling._COMPILING:
        ours = threads.submit(double, np.full(3, 4, np.float32)).result(timeout=60)
        other = threads.submit(double, np.ones(4, np.float32))  # another shape: it waits for us
        with pytest.raises(futures.TimeoutError):
            other.result(timeout=0.2)
    np.testing.assert_array_equal(ours, [8, 8, 8])


def test_values_are_those_of_jit_for_every_kind_of_argument():
    def function(x, times, *, shift, power=1):
        return {"a": times * x["a"] ** power + shift}

    ours = compiling.jit(function, static_argnums=(1,), static_argnames=("power",))
    theirs = jax.jit(function, static_argnums=(1,), static_argnames=("power",))
    for dtype in (np.float32, np.int32):
        x = {"a": np.arange(4, dtype=dtype)}
        for times, power, shift in ((2, 1, 0.5), (3, 1, 0.5), (3, 2, 1), (3, 2, jnp.ones(4))):
            wanted = theirs(x, times, shift=shift, power=power)["a"]
            got = ours(x, times, shift=shift, power=power)["a"]
            np.testing.assert_array_equal(got, wanted)
            assert got.dtype == wanted.dtype
    with float64():
        assert ours({"a": np.arange(4.0)}, 2, shift=0.5)["a"].dtype == np.float64


def test_it_is_differentiated_and_mapped_inside_of_other_functions():
    square = compiling.jit(lambda x: x**2)
    assert jax.grad(lambda x: square(x) + square(2 * x))(3.0) == 30
    np.testing.assert_array_equal(jax.jit(jax.vmap(square))(jnp.arange(3.0)), [0, 1, 4])
