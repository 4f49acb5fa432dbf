"""What importing kip's kernels loads, and what it leaves behind, each in an interpreter of its own."""

from __future__ import annotations

from helpers.interpreter import printed


def run(code):
    """Run `code` in a new interpreter, warnings about deprecations being errors there; return what it printed."""
    return printed(code, options=["-W", "error::DeprecationWarning:neural_tangents"])


def test_a_configuration_can_name_kernels_without_loading_jax():
    run("""
        import sys
        import kip.kernels.architecture
        from kip.kernels import Architecture, entry_bytes
        entry_bytes(Architecture(), (32, 32, 3))
        assert not {"jax", "neural_tangents", "tensorflow", "numpy"} & set(sys.modules)
    """)


def test_evaluating_a_kernel_loads_no_tensorflow_and_leaves_jax_as_it_was():
    run("""
        import sys
        import jax, jax.core, jax.example_libraries.stax, jax.extend.core, jax.extend.linear_util, jax.flatten_util
        import numpy as np
        watched = [jax, jax.core, jax.random, jax.interpreters.ad]
        before = [set(vars(module)) for module in watched]
        util = sys.modules.get("jax.util")

        from kip.kernels import Architecture, kernel_function
        x = np.ones((2, 4, 4, 1), np.float32)
        block, vjp = jax.vjp(kernel_function(Architecture(family="FC", depth=1), "neural_tangents"), x, x)
        assert np.isfinite(vjp(block)[0]).all()

        assert not [name for name in sys.modules if name.split(".")[0] in ("tensorflow", "tf2jax")]
        assert "neural_tangents.experimental" not in sys.modules
        assert not hasattr(sys.modules["neural_tangents"], "experimental")
        for module, names in zip(watched, before):
            added = {n for n in set(vars(module)) - names if getattr(vars(module)[n], "__name__", "") != f"jax.{n}"}
            assert not added, (module, added)
        assert util is not None or not hasattr(sys.modules.get("jax.util"), "safe_map")
    """)


def test_threads_that_race_to_the_first_kernel_all_get_one():
    run("""
        from concurrent.futures import ThreadPoolExecutor
        import numpy as np
        from kip.kernels import Architecture, kernel_function
        x = np.ones((2, 3, 3, 1), np.float32)
        with ThreadPoolExecutor(8) as pool:
            kernels = list(pool.map(lambda depth: kernel_function(Architecture(family="FC", depth=depth)), [1, 2] * 4))
            blocks = list(pool.map(lambda kernel: kernel(x, x), kernels))
        assert all(block.shape == (2, 2) for block in blocks)
    """)


def test_neural_tangents_that_is_already_imported_is_used_as_it_is():
    run("""
        import sys
        import kip.kernels.neural_tangents as adapter
        first = adapter.neural_tangents
        del sys.modules["kip.kernels.neural_tangents"]
        import importlib
        again = importlib.import_module("kip.kernels.neural_tangents")
        assert again is not adapter
        assert again.neural_tangents is first
    """)


def test_neural_tangents_that_is_not_installed_is_named_in_the_error():
    output = run("""
        import sys
        sys.modules["neural_tangents"] = None  # how Python marks a module that cannot be imported
        from kip.errors import MissingExtraError
        from kip.kernels import Architecture, kernel_function
        try:
            kernel_function(Architecture(), "neural_tangents")
        except MissingExtraError as error:
            print(error)
    """)
    assert "not installed" in output
    assert "pip install neural-tangents" in output
