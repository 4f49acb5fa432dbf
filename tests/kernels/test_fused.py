"""The form for CPUs against the XLA form: values, gradients, equal bits, NaN, memory, what it keeps on disk."""

from __future__ import annotations

import functools

import jax
import numba
import numpy as np
import pytest

from helpers.compiling import AS_USERS
from helpers.interpreter import printed
from helpers.kinds import some, untyped
from kip.kernels import Architecture, entry_bytes, fused, kernel_function
from kip.kernels.fused import layout
from kip.kernels.fused.form import Form
from kip.kernels.levels import levels
from kip.precision import float64

A = Architecture
SHORT_CASES = [
    (A("ConvVec", 3), (5, 6, 3), (3, 18)),
    (A("ConvVec", 1), (1, 3, 1), (17, 1)),
    (A("ConvNet", 1), (4, 4, 1), (1, 1)),
    (A("ConvNet3", 1), (5, 4, 1), (16, 16)),
]
LONG_CASES = [
    (A("ConvNet", 2), (7, 11, 2), (4, 3), np.float32),
    (A("ConvNet", 3, get="nngp"), (9, 17, 3), (2, 9), np.float64),
    (A("ConvNet3", 2), (9, 8, 1), (16, 16), np.float32),
    (A("Myrtle", 7), (7, 5, 1), (4, 4), np.float64),
    (A("Myrtle", 5, w_std=0.7, b_std=1.0, get="nngp"), (4, 5, 2), (3, 3), np.float32),
]
CASES = [
    *((*case, np.float32) for case in SHORT_CASES),
    *(pytest.param(*case, np.float64, marks=pytest.mark.slow) for case in SHORT_CASES),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in LONG_CASES),
]


# Numba compiles for the better part of a minute for each type, and for each of the two kernels.
DTYPES = pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])


def images(count, shape, seed):
    return np.random.default_rng(seed).standard_normal((count, *shape))


def by_xla(architecture, x, z, bar, options=None):
    """The reference: value and gradients in float64."""
    function = kernel_function(architecture, "engine")

    @functools.partial(jax.jit, compiler_options=options)
    def run(x, z, bar):
        block, pull = jax.vjp(function, x, z)
        return (block, *pull(bar))

    with float64():
        return [np.asarray(part) for part in run(x, z, bar)]


def close(ours, theirs, dtype):
    scale = np.abs(theirs).max()
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=1e-5 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize(
    ("architecture", "shape", "block", "dtype"), CASES, ids=lambda value: getattr(value, "label", None)
)
def test_values_and_gradients_are_those_of_the_xla_form(architecture, shape, block, dtype):
    x, z, bar = images(block[0], shape, 0), images(block[1], shape, 1), images(block[0], block[1:], 2)
    expected = by_xla(architecture, x, z, bar)
    form = Form(architecture)
    a, b, cotangent = (array.astype(dtype) for array in (x, z, bar))
    close(form.forward(a, b), expected[0], dtype)
    close(form.pull_columns(a, b, cotangent), expected[2], dtype)
    for ours, theirs in zip(form.pull_both(a, b, cotangent), expected[1:], strict=True):
        close(ours, theirs, dtype)
    for ours, theirs in zip(form.value_and_pull(a, b, cotangent, True, True), expected, strict=True):
        close(ours, theirs, dtype)


@DTYPES
@pytest.mark.parametrize("count", [1, 5, *(pytest.param(count, marks=pytest.mark.slow) for count in (15, 16, 33))])
def test_a_block_on_the_diagonal_is_the_whole_and_symmetric(count, dtype):
    architecture, shape = A("ConvNet3", 1), (4, 5, 2)
    x, bar = images(count, shape, 0), images(count, (count,), 1)
    value, to_x, to_z = by_xla(architecture, x, x, bar, AS_USERS)
    form, x, bar = Form(architecture), x.astype(dtype), bar.astype(dtype)
    block = form.forward_diagonal(x)
    np.testing.assert_array_equal(block, block.T)
    # Of equal images the reference's variances and covariances round alike, too: both are exact there.
    close(block, value, dtype)
    close(form.pull_diagonal(x, bar), to_x + to_z, dtype)


@DTYPES
def test_results_are_the_same_bits_for_any_number_of_threads(dtype, monkeypatch):
    monkeypatch.setattr("kip.kernels.fused.form.PART", 1)  # as many parts as there may be
    architecture, shape = A("ConvNet", 2), (8, 9, 3)
    x, z, bar = (array.astype(dtype) for array in (images(11, shape, 0), images(35, shape, 1), images(11, (35,), 2)))
    results = [
        (*form.value_and_pull(x, z, bar, True, True), form.forward(x, z), form.pull_diagonal(x, bar[:, :11]))
        for form in (Form(architecture, threads=count) for count in (1, 2, 5))
    ]
    for other in results[1:]:
        for ours, theirs in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_equal_images_have_exactly_the_covariance_of_their_variance(scale):
    # Were it not exact, the angle would be the root of a rounding error, 3e-4, and the tangent kernel off by 5e-5.
    architecture, shape = A("ConvNet", 2), (8, 16, 3)
    x = (scale * images(3, shape, 0)).astype(np.float32)
    block = Form(architecture).forward(x, x)
    with float64():
        exact = np.asarray(jax.jit(kernel_function(architecture, "engine"))(x.astype(float), x.astype(float)))
    np.testing.assert_allclose(np.diag(block), np.diag(exact), rtol=2e-6)


@pytest.mark.slow
def test_values_of_nearly_equal_images_keep_their_digits_in_float32():
    architecture, shape = A("ConvNet", 2), (8, 16, 3)
    x = images(4, shape, 0).astype(np.float32)
    form = Form(architecture)
    for distance in (1e-1, 1e-2, 1e-3, 1e-4, 0):
        z = (x + distance * images(4, shape, 1)).astype(np.float32)
        exact = form.forward(x.astype(float), z.astype(float))
        np.testing.assert_allclose(form.forward(x, z), exact, rtol=3e-5)


@pytest.mark.parametrize("b_std", [0.0, 0.1])
@pytest.mark.parametrize("get", ["ntk", pytest.param("nngp", marks=pytest.mark.slow)])
def test_equal_constant_and_black_images_give_finite_values_and_gradients(b_std, get):
    x = images(5, (8, 8, 1), 0).astype(np.float32)
    x[1], x[2], x[3], x[4] = x[0], 1, -1, 0
    architecture = A("ConvNet3", 1, b_std=b_std, get=get)
    form, bar = Form(architecture), np.ones((5, 5), np.float32)
    for ours, theirs in zip(
        form.value_and_pull(x, x, bar, True, True), by_xla(architecture, x, x, bar.astype(np.float32)), strict=True
    ):
        ours = some(ours)
        assert np.isfinite(ours).all()
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=1e-4)
    assert np.isfinite(form.pull_diagonal(x, bar)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "architecture",
    [A("ConvNet", 1), pytest.param(A("ConvVec", 2, get="nngp"), marks=pytest.mark.slow)],
    ids=lambda a: a.label,
)
def test_a_number_that_is_not_finite_spoils_its_own_pairs_and_no_others(architecture, bad):
    x, z = (images(count, (4, 4, 2), count).astype(np.float32) for count in (3, 10))
    form, bar = Form(architecture, threads=1), np.ones((3, 10), np.float32)
    whole = form.value_and_pull(x, z, bar, True, True)
    z[4, 1, 2, 0] = bad
    spoilt = form.value_and_pull(x, z, bar, True, True)
    others = np.arange(10) != 4
    assert not np.isfinite(spoilt.values[:, 4]).any()
    assert not np.isfinite(some(spoilt.z)[4]).all()
    np.testing.assert_array_equal(spoilt.values[:, others], whole.values[:, others])
    np.testing.assert_array_equal(some(spoilt.z)[others], some(whole.z)[others])
    z[4, 1, 2, 0] = 0
    x_again = form.value_and_pull(x, z, bar, True, True)
    assert all(np.isfinite(some(part)).all() for part in x_again)


def test_memory_is_bounded_per_thread_and_below_the_xla_forms():
    for architecture, shape in ((A("ConvNet"), (32, 32, 3)), (A("Myrtle"), (8, 8, 1)), (A("ConvVec"), (16, 16, 3))):
        block = 16 * 16 * entry_bytes(architecture, shape, implementation="engine")
        assert Form(architecture).temporary_bytes(shape, 4, threads=2) < block


@pytest.mark.parametrize(("architecture", "size"), [(A("ConvNet"), (32, 32)), (A("Myrtle", 10), (9, 7))])
def test_tables_are_the_levels(architecture, size: tuple[int, int]):
    table = layout.tables(architecture, *size, 3)
    for ours, level in zip(table.pairs, levels(architecture, *size), strict=True):
        assert (ours["height"], ours["width"], ours["convs"]) == (level.height, level.width, level.convs)
        assert ours["rows"] == min(level.rows, level.height - 1)
        if level.columns is not None:
            assert ours["columns"] == level.columns
    # The pairs that lie in the image, of 15 x 15 shifts at 32 x 32, 7 x 7 at 16 x 16 and 3 x 3 at 8 x 8.
    if size == (32, 32):
        assert table.position_pairs == 2 * (15 * 32 - 56) ** 2 + (7 * 16 - 12) ** 2 + (3 * 8 - 2) ** 2


def test_what_it_supports():
    assert fused.supports(A("ConvVec"))
    assert not fused.supports(A("FC"))
    assert fused.supports(A("ConvNet", activation="erf"))


PROGRAM = """
    import logging, sys
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    import numpy as np
    from kip.kernels import Architecture
    from kip.kernels.fused.form import Form
    x = np.ones((1, 2, 2, 1), np.float32)
    print(Form(Architecture("ConvVec", 1)).forward(x, x))
"""


@pytest.mark.slow
def test_compiled_code_is_kept_and_a_folder_that_cannot_be_written_costs_only_that(tmp_path, monkeypatch):
    def run(folder):
        monkeypatch.setenv("KIP_CACHE_DIR", str(folder))
        return printed(PROGRAM)

    first, second = run(tmp_path / "cache"), run(tmp_path / "cache")
    assert "compiling the kernel's pairs" in first
    assert "compiling" not in second
    (tmp_path / "file").write_text("")
    third = run(tmp_path / "file" / "cache")  # below a file there can be no folder
    assert "compiled kernels are not kept" in third
    assert first.splitlines()[-1] == second.splitlines()[-1] == third.splitlines()[-1]


def test_importing_the_package_imports_no_numba():
    printed("import sys, kip.kernels.fused, kip.blocks; assert 'numba' not in sys.modules")


def test_numba_keeps_its_own_setting():
    assert "kip" not in str(untyped(numba).config.CACHE_DIR)
