"""Kernels of two image batches: the values that a configuration names, and the functions that compute them.

Importing this package, and `kip.kernels.architecture`, imports neither JAX nor neural-tangents; `kernel_function` does.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kip.errors import ConfigError, MissingExtraError, ShapeError
from kip.kernels import permission
from kip.kernels.architecture import (
    RBF,
    Architecture,
    Features,
    Implementation,
    Kernel,
    Laplace,
    Products,
    Stax,
    own_function,
)
from kip.kernels.memory import TileMemory, entry_bytes, tile_memory
from kip.kernels.user_function import load_function

if TYPE_CHECKING:
    import jax
    import numpy as np

__all__ = [
    "RBF",
    "Architecture",
    "Features",
    "Implementation",
    "Kernel",
    "Laplace",
    "Products",
    "Stax",
    "TileMemory",
    "entry_bytes",
    "kernel_function",
    "own_function",
    "tile_memory",
]


@functools.lru_cache(maxsize=64)
def kernel_function(
    kernel: Kernel, implementation: Implementation = "auto", products: Products = "float32"
) -> Callable[[jax.Array | np.ndarray, jax.Array | np.ndarray], jax.Array]:
    """Return the function K(x, z) that a kernel value stands for.

    It is pure, differentiable in both arguments with finite gradients (where x_i = z_j too), and not jitted. Equal
    kernel values give the same function object, so that `jax.jit` of it compiles once.

    Args:
        kernel: an `Architecture`, `RBF`, `Laplace`, `Stax` or `Features`.
        implementation: what computes an `Architecture`: `engine`, which is `auto` here, `pallas` for float32 images on
            a GPU, or `neural_tangents`. Other kernels have one implementation. `numba` computes blocks of NumPy arrays
            only, which JAX cannot trace (`kip.blocks`).
        products: the precision of matrix products on accelerators. Kernels need `float32`; `tf32` is there so that
            `kip bench gpu` can measure what it gains and loses.

    Returns:
        A function of images x (N, H, W, C) and z (M, H, W, C), both float32 or both float64, that gives the kernel
        (N, M) in their type. Where JAX has float64 enabled, neural-tangents computes float32 images in float64 inside.
        It raises `ShapeError`, before anything is traced, if the shapes do not fit each other or the kernel, or if the
        user's own function returns another shape.

    Raises:
        ConfigError: if the function of a `Stax` or `Features` kernel is not permitted or cannot be loaded, or if
            `implementation` is `numba`, or `pallas` for a kernel without convolutions.
        MissingExtraError: if neural-tangents is needed and not installed.
    """
    import jax

    compute = _compute(kernel, implementation)

    def evaluate(x: jax.Array | np.ndarray, z: jax.Array | np.ndarray) -> jax.Array:
        _check_images(kernel, x, z)
        # By default JAX multiplies float32 matrices in TF32 on current GPUs, and in bfloat16 on TPUs: three digits,
        # where a ridge of 1e-6 needs all seven.
        with jax.default_matmul_precision("highest" if products == "float32" else "tensorfloat32"):
            block = compute(x, z)
        if block.shape != (len(x), len(z)):
            raise ShapeError(
                f"the result of kernel {kernel.label}", got=f"shape {block.shape}", expected=f"{(len(x), len(z))}"
            )
        return block.astype(x.dtype)

    return evaluate


def _compute(kernel: Kernel, implementation: Implementation) -> Callable[..., jax.Array]:
    if isinstance(kernel, Architecture):
        from kip.kernels import engine

        if implementation == "numba":
            raise ConfigError(
                "the implementation of a kernel function for JAX",
                got="'numba'",
                expected="'auto', 'pallas', 'engine' or 'neural_tangents'",
                remedy="Compute blocks of the kernel with kip.KernelBlocks, which takes 'numba'.",
            )
        if implementation == "pallas":
            return _for_gpus(kernel)
        if implementation != "neural_tangents":
            return engine.network(kernel)
        from kip.kernels.neural_tangents import network

        return _with_get(network(kernel), kernel.get)
    if isinstance(kernel, Stax):
        permission.check(kernel.function)
        return _with_get(_load_function(kernel.function), kernel.get)
    if isinstance(kernel, Features):
        from kip.kernels import encoder

        return encoder.kernel(kernel)
    from kip.kernels import classical

    formula = classical.rbf if isinstance(kernel, RBF) else classical.laplace
    return functools.partial(formula, length_scale=kernel.length_scale)


def _for_gpus(kernel: Architecture) -> Callable[..., jax.Array]:
    from kip.kernels import pallas
    from kip.placement import platform

    if not pallas.supports(kernel):
        raise ConfigError(
            f"the implementation of {kernel.label}",
            got="'pallas'",
            expected="'auto' or 'engine'",
            remedy="The form for GPUs computes convolutional networks.",
        )

    def compute(x: jax.Array, z: jax.Array) -> jax.Array:
        if platform() != "gpu" or x.dtype != "float32":
            raise ConfigError(
                f"the implementation of {kernel.label} for {x.dtype} images on a {platform().upper()}",
                got="'pallas'",
                expected="float32 images on a GPU",
                remedy="Set blocks.implementation to 'auto', which takes the form for the device.",
            )
        from kip.kernels.pallas import form

        return form.kernel(kernel, x, z)

    return compute


def _with_get(function: Callable[..., Any], get: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return lambda x, z: function(x, z, get)


def _check_images(kernel: Kernel, x: jax.Array | np.ndarray, z: jax.Array | np.ndarray) -> None:
    """Refuse image batches that do not fit each other, the kernel or the device."""
    from kip.placement import platform

    for name, batch in (("x", x), ("z", z)):
        if len(batch.shape) != 4:
            raise ShapeError(f"images {name} of a kernel", got=f"shape {batch.shape}", expected="(N, H, W, C)")
    if x.shape[1:] != z.shape[1:]:
        raise ShapeError(
            "images x and z of a kernel differ in height, width or channels",
            got=f"{x.shape} and {z.shape}",
            expected="the same (H, W, C)",
        )
    if x.dtype != z.dtype or x.dtype.kind != "f":
        raise ShapeError(
            "images x and z of a kernel must share a float type",
            got=f"{x.dtype} and {z.dtype}",
            expected="float32 or float64 for both",
        )
    if x.dtype == "float64" and platform() == "tpu":
        raise ConfigError(
            f"kernel {kernel.label} of float64 images on a TPU",
            got="float64, which a TPU emulates without its range",
            expected="float32",
            remedy="Set blocks.dtype to float32.",
        )
    kernel.check_images(x.shape[1], x.shape[2])


def _load_function(name: str) -> Callable[..., Any]:
    """Load the function of a Stax kernel; see `kip.kernels.user_function`."""
    with contextlib.suppress(MissingExtraError):
        importlib.import_module("kip.kernels.neural_tangents")  # so that the user's own import of it works
    return load_function(name, of="a Stax kernel", signature="(x, z, get)", example="_, _, NAME = stax.serial(...)")
