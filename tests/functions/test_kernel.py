"""`kip.kernel` called, traced and differentiated, and `kip.kernel_fn` in the form of neural-tangents."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kip
from helpers.interpreter import printed
from helpers.kinds import untyped
from kip.blocks import Blocks, KernelBlocks, LocalExecutor
from kip.blocks.plan import whole
from kip.errors import ConfigError, ShapeError
from kip.functions import kernel as functions
from kip.kernels import kernel_function
from kip.precision import float64

CONV = kip.Architecture("ConvVec", 1)
SHAPE = (4, 4, 1)
PLAN = importlib.import_module("kip.blocks.plan")
SMALL = 6
"""Images on each side of a block, where a test makes blocks small."""


def images(count, seed=0, shape=SHAPE, dtype: Any = np.float32):
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(dtype)


def weighted(count, other, seed=9):
    return np.random.default_rng(seed).standard_normal((count, other)).astype(np.float32)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of six images on a side, in `kip.kernel` and in the programs that it is traced into."""
    monkeypatch.setattr(PLAN, "WHOLE_SIDE", SMALL)


X, Z = images(8), images(5, 1)
XLA = kernel_function(CONV, "engine")


def test_a_whole_matrix_is_cut_into_square_tasks_that_cover_it_once():
    for rows, columns in ((1, 1), (7, 3), (100, 40), (33, 129)):
        seen = np.zeros((rows, columns), int)
        made = whole(columns, rows, 1, 32 * 32)
        for task in made.ts:
            seen[task.where] += 1
            assert max(task.shape) <= 32
        assert (seen == 1).all()
    upper = np.zeros((100, 100), int)
    for task in whole(100, None, 1, 32 * 32).ss:
        upper[task.where] += 1
        assert task.rows[0] <= task.columns[0]
    assert (np.maximum(upper, upper.T) == 1).all()
    assert len(whole(19, 19, 1, 32 * 32).ts) == 1, "what fits is one block"


@pytest.mark.usefixtures("small_blocks")
def test_blocks_give_the_matrix_that_the_whole_gives():
    expected = np.asarray(XLA(X, Z))
    value = kip.kernel(X, Z, kernel=CONV)
    assert type(value) is np.ndarray
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    own = kip.kernel(X, kernel=CONV)
    np.testing.assert_array_equal(own, own.T)
    np.testing.assert_allclose(own, XLA(X, X), rtol=1e-5)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("wanted", [(0,), (1,), (0, 1)])
def test_a_program_has_the_bits_and_gradients_of_the_blocks(wanted):
    kernel = functools.partial(kip.kernel, kernel=CONV)
    bar = weighted(8, 5)
    np.testing.assert_array_equal(jax.jit(kernel)(X, Z), kernel(X, Z))

    def loss(function, x, z):
        return jnp.sum(bar * function(x, z) ** 2)

    ours, theirs = (jax.grad(functools.partial(loss, function), wanted)(X, Z) for function in (kernel, XLA))
    compiled = jax.jit(jax.grad(functools.partial(loss, kernel), wanted))(X, Z)
    for one, other, reference in zip(ours, compiled, theirs, strict=True):
        np.testing.assert_allclose(one, reference, rtol=1e-4, atol=1e-5 * np.abs(reference).max())
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("small_blocks")
def test_the_symmetric_matrix_has_the_gradient_of_independent_entries():
    bar = weighted(8, 8)
    kernel = functools.partial(kip.kernel, kernel=CONV)
    np.testing.assert_array_equal(jax.jit(kernel)(X), kernel(X))
    ours = jax.jit(jax.grad(lambda x: jnp.sum(bar * kernel(x))))(X)
    theirs = jax.grad(lambda x: jnp.sum(bar * XLA(x, x)))(X)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_only_what_is_differentiated_is_pulled_back(monkeypatch):
    called = []
    host = functions.traced.host(CONV, 1024)
    for name in ("block", "pull_x", "pull_z", "pull_both"):
        method = getattr(host, name)
        monkeypatch.setattr(host, name, lambda *a, name=name, method=method: (called.append(name), method(*a))[1])

    def summed(x, z):
        return kip.kernel(x, z, kernel=CONV).sum()

    for argnums, name in ((0, "pull_x"), (1, "pull_z"), ((0, 1), "pull_both")):
        called.clear()
        jax.block_until_ready(jax.jit(jax.grad(summed, argnums))(X, Z))
        assert [each for each in called if each != "block"] == [name]


def test_vmap_scan_and_jacrev_go_through_their_batch():
    batch = np.stack([X[:3], X[3:6]])
    kernel = functools.partial(kip.kernel, kernel=CONV)
    each = np.stack([kernel(part, Z) for part in batch])
    np.testing.assert_array_equal(jax.jit(jax.vmap(kernel, (0, None)))(batch, Z), each)
    np.testing.assert_array_equal(
        jax.vmap(kernel, (None, 1), 2)(X[:3], np.moveaxis(batch, 0, 1))[..., 1], kernel(X[:3], batch[1])
    )
    np.testing.assert_array_equal(jax.lax.scan(lambda c, part: (c, kernel(part, Z)), 0, batch)[1], each)
    rows = jax.jacrev(lambda x: kernel(x, Z)[0, 1])(X[:2])
    whole_jacobian = jax.jacrev(lambda x: kernel(x, Z))(X[:2])
    np.testing.assert_allclose(whole_jacobian[0, 1], rows, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_the_second_derivative_is_refused_by_the_form_for_cpus_and_given_by_the_other():
    def summed(x, **options):
        return jnp.sum(kip.kernel(x, Z, kernel=CONV, **options) ** 2)

    with pytest.raises(ConfigError, match="implementation='engine'"):
        jax.jacrev(jax.grad(summed))(X[:1])
    second = jax.jacrev(jax.grad(functools.partial(summed, implementation="engine")))(X[:1])
    assert second.shape == (1, *SHAPE, 1, *SHAPE)
    assert np.isfinite(second).all()


def test_callbacks_on_several_devices_at_once_wait_for_nobody():
    """With `jax.pure_callback` this stood still: each callback waited for a thread that another one had."""
    output = printed("""
        import faulthandler, os
        faulthandler.dump_traceback_later(240, exit=True)
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
        import jax, numpy as np
        import kip
        x = np.random.default_rng(0).standard_normal((300, 32, 32, 3)).astype(np.float32)
        devices = jax.devices()
        parts = [jax.device_put(x, device) for device in devices]
        kernel = jax.jit(lambda x: kip.kernel(x, x[:4], kernel="ConvVec1"))
        results = [kernel(part) for _ in range(5) for part in parts]
        jax.block_until_ready(results)
        assert {next(iter(result.devices())) for result in results} == set(devices)
        assert all((np.asarray(result) == np.asarray(results[0])).all() for result in results)
        mesh = jax.sharding.Mesh(np.array(devices), ("d",))
        sharded = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d")))
        assert (np.asarray(kernel(sharded)) == np.asarray(results[0])).all()
        print(len(devices))
    """)
    assert output.split() == ["2"]


def test_equal_kernels_are_traced_and_compiled_once():
    traces = []

    @functools.partial(jax.jit, static_argnames="kernel")
    def value(x, kernel):
        traces.append(kernel)
        return kip.kernel(x, kernel=kernel)

    for kernel in (kip.Architecture("FC", 2), kip.Architecture("FC", 2)):
        value(X, kernel)
    assert len(traces) == 1
    assert kip.kernel_fn("FC2") is kip.kernel_fn(kip.Architecture("FC", 2))


@pytest.mark.slow
def test_names_values_and_kinds_of_arrays():
    flat = X.reshape(8, -1)
    expected = np.asarray(kernel_function(kip.Architecture("FC", 1))(X, Z))
    for x, z, kernel in ((X, Z, "FC1"), (flat, Z.reshape(5, -1), "fc1"), (X, Z, kip.kernel_fn("FC1"))):
        np.testing.assert_allclose(kip.kernel(x, z, kernel=kernel), expected, rtol=1e-5)
    nngp = kip.kernel(X, Z, kernel=kip.Architecture("FC", 1, get="nngp"))
    np.testing.assert_array_equal(nngp, kip.kernel(X, Z, kernel="FC1", get="nngp"))
    mixed = kip.kernel(jnp.asarray(X), Z.astype(np.float64), kernel="FC1")
    assert isinstance(mixed, jax.Array)
    assert mixed.dtype == np.float32, "JAX's arrays are float32 unless jax_enable_x64 is set"
    assert kip.kernel(X, Z.astype(np.float64), kernel="RBF").dtype == np.float64
    assert kip.kernel(X[:0], Z, kernel="FC1").shape == (0, 5)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: kip.kernel(X, Z, kernel="ConvNat"), ConfigError, "ConvNet"),
        (lambda: untyped(kip.kernel)(X, Z, kernel=lambda x, z: 0), ConfigError, "kip.stax"),
        (lambda: kip.kernel(X, Z, kernel="RBF", get="ntk"), ConfigError, "no infinite network"),
        (lambda: untyped(kip.kernel)(X, Z, kernel="FC1", get="ntkk"), ConfigError, "'nngp'"),
        (lambda: kip.kernel(X, Z, kernel="ConvNet"), ShapeError, "8x8"),
        (lambda: kip.kernel(X.reshape(8, -1), kernel="ConvVec1"), ShapeError, "FC, RBF and Laplace"),
        (lambda: kip.kernel(X, Z[:, 1:], kernel="FC1"), ShapeError, "one shape"),
        (lambda: kip.kernel(X.astype(np.uint8), kernel="FC1"), ShapeError, "astype"),
        (lambda: kip.kernel(None, kernel="FC1"), ShapeError, "images"),
        (lambda: jax.jit(lambda x: kip.kernel(x, kernel="ConvNet"))(X), ShapeError, "8x8"),
        (lambda: kip.kernel_fn("RBF"), ConfigError, "kip.kernel"),
        (lambda: kip.kernel_fn("FC1")(X, Z, ("ntk", "ntk")), ConfigError, "tuple"),
        (lambda: untyped(kip).kernel_function, AttributeError, "kip.kernel"),
    ],
)
def test_mistakes_are_named_before_anything_is_computed(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_xla_computes_in_blocks_what_would_exceed_the_memory(monkeypatch):
    """A program that XLA compiles holds two images by two at a time, and its vjp computes them again."""
    monkeypatch.setattr(functions, "entry_bytes", lambda *_: (1 << 20) // 4)
    bar = weighted(8, 5)
    reference = kernel_function(kip.Architecture("FC", 1))
    ours, theirs = (
        jax.jit(jax.value_and_grad(lambda x, z, f=f: jnp.sum(bar * f(x, z)), (0, 1)))(X, Z)
        for f in (functools.partial(kip.kernel, kernel="FC1", memory_mib=1), reference)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


def test_a_long_call_shows_a_bar_and_a_quiet_one_none(monkeypatch, capsys):
    monkeypatch.setattr(PLAN, "WHOLE_SIDE", 2)
    made = []
    bar = functions.KernelBlocks.matrix.__globals__["progress_bar"]
    monkeypatch.setitem(
        functions.KernelBlocks.matrix.__globals__,
        "progress_bar",
        lambda total, *a, **options: (made.append((total, options["shown"])), bar(total, *a, **options))[1],
    )
    kip.kernel(X, Z, kernel="FC1")
    kip.kernel(X, kernel="FC1", show_progress=False)
    assert made == [(4 * 3, True), (4 * 5 // 2, False)]


def test_the_matrix_of_blocks_has_the_same_bits_on_one_device_and_two():
    results = []
    for devices in (jax.devices()[:1], jax.devices()):
        with KernelBlocks(Blocks(memory_mib=1), LocalExecutor(devices)) as blocks:
            results.append(blocks.matrix(CONV, images(40)))
    np.testing.assert_array_equal(*results)


def test_a_function_in_neural_tangents_form_gives_named_tuples():
    kernel_fn = kip.kernel_fn("FC1")
    both = kernel_fn(X, Z, ("ntk", "nngp"))
    assert both._fields == ("ntk", "nngp")
    np.testing.assert_array_equal(both.ntk, kernel_fn(X, Z, "ntk"))
    np.testing.assert_array_equal(kernel_fn(X).nngp, kernel_fn(X, None, "nngp"))
    compiled = jax.jit(kernel_fn, static_argnames="get")
    np.testing.assert_allclose(compiled(X, None, get=("nngp", "ntk")).ntk, kernel_fn(X, X, "NTK"), rtol=1e-5)


@pytest.mark.slow
def test_values_and_gradients_in_float64_are_neural_tangents():
    from kip.kernels.neural_tangents import network

    architecture = kip.Architecture("ConvNet", 1)
    theirs = network(architecture)
    x, z = images(4, shape=(6, 6, 2), dtype=np.float64), images(3, 1, (6, 6, 2), np.float64)
    bar = np.random.default_rng(3).standard_normal((4, 3))
    with float64():
        for get in ("ntk", "nngp"):
            loss = [
                lambda x, z, get=get: jnp.sum(bar * untyped(kip.kernel)(x, z, kernel=architecture, get=get)),
                lambda x, z, get=get: jnp.sum(bar * theirs(x, z, get)),
            ]
            ours, expected = (jax.jit(jax.value_and_grad(f, (0, 1)))(x, z) for f in loss)
            assert ours[1][0].dtype == np.float64
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), ours, expected)
    np.testing.assert_allclose(
        kip.kernel(x, z, kernel=architecture), jax.jit(theirs, static_argnums=2)(x, z, "ntk"), rtol=1e-5
    )
