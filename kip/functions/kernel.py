"""The kernel as a function of arrays: eager in blocks, or traced inside a JAX program."""

from __future__ import annotations

import collections
import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from kip.blocks import Blocks, KernelBlocks
from kip.blocks.plan import whole
from kip.errors import ConfigError, ShapeError
from kip.functions import traced
from kip.kernels import (
    RBF,
    Architecture,
    Features,
    Implementation,
    Kernel,
    Laplace,
    Stax,
    entry_bytes,
    fused,
    kernel_function,
)
from kip.kernels.architecture import kernel_named
from kip.placement import platform
from kip.precision import AnyArray

Get = Literal["ntk", "nngp"]
KERNELS = (Architecture, RBF, Laplace, Stax, Features)


def kernel(
    x: Any,
    z: Any = None,
    *,
    kernel: str | Kernel | KernelFn = "ConvNet",
    get: Get | None = None,
    implementation: Implementation = "auto",
    memory_mib: int = 1024,
    show_progress: bool = True,
) -> AnyArray:
    """Return the kernel matrix K(x, z), K_ij = K(x_i, z_j), in the fastest form that the device has.

    Called with arrays, it is computed in blocks over all devices of JAX's default backend; memory holds the matrix and
    a few blocks. Inside a JAX program (`jit`, `grad`, `vjp`, `jacrev`, `vmap`, `scan`) it is part of the program: on
    CPUs convolutional networks are a callback into the compiled form, with a vjp of its own; elsewhere XLA compiles
    them. The same images give the same bits in and out of `jit` on one CPU device.

    Args:
        x: images (N, H, W, C), or vectors (N, d) for FC, RBF and Laplace; float32 or float64, of NumPy or JAX. Other
            array types that NumPy reads, such as a PyTorch tensor on the CPU, are taken as NumPy arrays.
        z: the same, (M, ...); None means x, of which half of the matrix is computed, and which is symmetric.
        kernel: a value (`kip.Architecture`, `kip.RBF`, `kip.Laplace`, `kip.Stax`, `kip.Features`), a name such as
            `ConvNet`, `ConvVec3`, `Myrtle5`, `FC1` or `RBF`, or a function that `kip.kernel_fn` or `kip.stax.serial`
            returned.
        get: `ntk` or `nngp`; None means the value's own, and `ntk` for a name. RBF, Laplace and features have none.
        implementation: what computes a network, see `kip.Blocks`. `engine` can be
            differentiated twice, in reverse mode.
        memory_mib: the temporary memory of a block, in MiB.
        show_progress: whether work of more than a moment shows a bar on stderr; a JAX program shows none.

    Returns:
        (N, M), a NumPy array if all images are NumPy's, otherwise a JAX array; float64 if an image batch is, otherwise
        float32. JAX keeps float64 where `jax_enable_x64` is set. Gradients have the dtype of what they are for.

    Raises:
        ShapeError: if the arrays are no images or vectors, differ in shape, do not fit the kernel, or are no floats.
        ConfigError: if there is no such kernel, or no such `get` of it; for the second derivative on CPUs.

    >>> import numpy as np
    >>> x = np.eye(3, 4, dtype=np.float32)
    >>> kernel(x, kernel="FC1").shape
    (3, 3)
    """
    value = value_of(kernel, get)
    x, z = _batches(value, x, z)
    if not isinstance(x, Tracer) and not isinstance(z, Tracer):
        return _eager(value, x, z, Blocks(memory_mib, _dtype(x, z).name, implementation), show_progress)
    dtype = _dtype(x, z)
    x, z = x.astype(dtype), z if z is None else z.astype(dtype)
    if isinstance(value, Architecture) and fused.supports(value) and _takes_callback(implementation):
        host = traced.host(value, memory_mib)
        return traced.symmetric(host, x) if z is None else traced.block(host, x, z)
    return _in_blocks(value, implementation, memory_mib << 20, x, x if z is None else z)


class KernelFn:
    """The kernel of a network in the calling form of neural-tangents; see `kip.kernel_fn`.

    Attributes:
        kernel: its value.
        takes_images: False for a fully connected network that does not flatten images, and takes vectors alone.
    """

    def __init__(self, kernel: Architecture | Stax, takes_images: bool = True):
        self.kernel, self.takes_images = kernel, takes_images

    def __call__(self, x1: Any, x2: Any = None, get: str | tuple[str, ...] | None = None) -> Any:
        """Return the kernel of x1 (N, ...) and x2 (M, ...), None for x1, as `kip.kernel` does.

        Args:
            x1: images or vectors.
            x2: the same; None means x1.
            get: `ntk` or `nngp`, which gives an array (N, M); a tuple of them, which gives a named tuple of arrays in
                its order; None means ("nngp", "ntk").
        """
        if not self.takes_images and len(np.shape(x1)) != 2:
            raise ShapeError(
                "x1 of a stax network without Flatten",
                got=f"shape {np.shape(x1)}",
                expected="vectors (N, d)",
                remedy="Put stax.Flatten() before the first dense layer.",
            )
        if isinstance(get, str):
            return kernel(x1, x2, kernel=self.kernel, get=_get(get))
        named: tuple[Get, ...] = ("nngp", "ntk") if get is None else tuple(_get(each) for each in get)
        if not named or len(set(named)) < len(named):
            raise ConfigError("get of a kernel function", got=repr(get), expected="'ntk', 'nngp', or a tuple of both")
        return _named(named)(*(kernel(x1, x2, kernel=self.kernel, get=each) for each in named))

    def __repr__(self) -> str:
        return f"kernel_fn({self.kernel!r})"


def kernel_fn(kernel: str | Architecture | Stax = "ConvNet", *, takes_images: bool = True) -> KernelFn:
    """Return a network's kernel in the calling form of neural-tangents: `kernel_fn(x1, x2, "ntk")`.

    Equal kernels give the same object, so that `jax.jit(kernel_fn, static_argnames="get")` compiles once. A tuple of
    both computes them one after the other.

    Args:
        kernel: a name or value, as of `kip.kernel`.
        takes_images: False refuses images where the network is fully connected.

    Raises:
        ConfigError: if there is no such kernel, or if it is none of a network.

    >>> import numpy as np
    >>> x = np.eye(3, 4, dtype=np.float32)
    >>> both = kernel_fn("FC1")(x, x, ("nngp", "ntk"))
    >>> both.ntk.shape, both.nngp.shape
    ((3, 3), (3, 3))
    """
    value = value_of(kernel, None)
    if not isinstance(value, (Architecture, Stax)):
        raise ConfigError(
            "the kernel of kip.kernel_fn",
            got=value.label,
            expected="a network, such as 'FC1' or kip.Architecture()",
            remedy="RBF and Laplace have neither an NTK nor an NNGP: kip.kernel(x, z, kernel='RBF').",
        )
    return _kernel_fn(value, takes_images)


_kernel_fn = functools.lru_cache(maxsize=64)(KernelFn)


@functools.cache
def _named(names: tuple[str, ...]) -> Any:
    return collections.namedtuple("Kernels", names)


def _get(given: Any) -> Get:
    lower: Any = given.lower() if isinstance(given, str) else given
    if lower not in ("ntk", "nngp"):
        raise ConfigError("get of a kernel", got=repr(given), expected="'ntk' or 'nngp'")
    return lower


def value_of(kernel: Any, get: Any = None) -> Kernel:
    """Return the value of a kernel that `kip.kernel` takes, with its `get` as asked for.

    Raises:
        ConfigError: if there is no such kernel, or no such `get` of it.
    """
    if isinstance(kernel, KernelFn):
        kernel = kernel.kernel
    if isinstance(kernel, str):
        kernel = kernel_named(kernel)
    if not isinstance(kernel, KERNELS):
        raise ConfigError(
            "kernel",
            got=f"a {type(kernel).__name__}",
            expected="a name such as 'ConvNet', or a value such as kip.Architecture('ConvNet')",
            remedy="A network of neural-tangents cannot be looked into: write it with kip.stax, or name it in "
            "kip.Stax('my_network.py:kernel_fn').",
        )
    if get is None:
        return kernel
    if isinstance(kernel, (RBF, Laplace, Features)):
        raise ConfigError(
            f"get of the kernel {kernel.label}", got=repr(get), expected="None: it is no infinite network's"
        )
    return _with_get(kernel, _get(get))


@functools.lru_cache(maxsize=64)
def _with_get(kernel: Any, get: Get) -> Any:
    return dataclasses.replace(kernel, get=get)


def _batches(kernel: Kernel, x: Any, z: Any) -> tuple[Any, Any]:
    """Return both batches as images (N, H, W, C), all NumPy's or all JAX's; z stays None."""
    given = {name: batch for name, batch in (("x", x), ("z", z)) if batch is not None}
    if "x" not in given:
        raise ShapeError("x of a kernel", got="None", expected="images (N, H, W, C) or vectors (N, d)")
    as_jax = any(isinstance(batch, jax.Array) for batch in given.values())
    read = {name: (jnp.asarray if as_jax else np.asarray)(batch) for name, batch in given.items()}
    for name, batch in read.items():
        if batch.dtype not in (np.float32, np.float64):
            raise ShapeError(
                f"{name} of a kernel",
                got=f"{batch.dtype}",
                expected="float32 or float64",
                remedy=f"{name}.astype('float32'), after the preprocessing that the kernel is to see: pixels of 0 to "
                "255 are divided by 255 and standardised.",
            )
    first = read["x"].shape[1:]
    if any(batch.shape[1:] != first for batch in read.values()):
        raise ShapeError(
            "x and z of a kernel",
            got=" and ".join(str(batch.shape) for batch in read.values()),
            expected="images of one shape (H, W, C), or vectors of one length",
        )
    takes_vectors = isinstance(kernel, (RBF, Laplace)) or (isinstance(kernel, Architecture) and kernel.family == "FC")
    if len(first) == 1 and takes_vectors:
        read = {name: batch.reshape(len(batch), 1, 1, -1) for name, batch in read.items()}
    elif len(first) != 3:
        raise ShapeError(
            f"x of the kernel {kernel.label}",
            got=f"shape {read['x'].shape}",
            expected="images (N, H, W, C)" + (" or vectors (N, d)" if takes_vectors else ""),
            remedy=None
            if takes_vectors or len(first) != 1
            else "Vectors are for FC, RBF and Laplace: reshape them to images, or choose another kernel.",
        )
    kernel.check_images(*read["x"].shape[1:3])
    return read["x"], read.get("z")


def _dtype(x: Any, z: Any) -> np.dtype:
    return x.dtype if z is None else np.promote_types(x.dtype, z.dtype)


def _eager(kernel: Kernel, x: Any, z: Any, config: Blocks, show_progress: bool) -> AnyArray:
    others = None if z is None else np.asarray(z)
    with KernelBlocks(config) as blocks:
        matrix = blocks.matrix(kernel, np.asarray(x), others, show_progress=show_progress)
    if not isinstance(x, jax.Array):
        return matrix
    devices = x.devices()
    return jax.device_put(matrix, next(iter(devices))) if len(devices) == 1 else jnp.asarray(matrix)


def _takes_callback(implementation: Implementation) -> bool:
    """Return whether a program that is traced now takes the form for CPUs."""
    return implementation == "numba" or (implementation == "auto" and platform() == "cpu")


def _in_blocks(kernel: Kernel, implementation: Implementation, memory: int, x: Any, z: Any) -> jax.Array:
    """Return the kernel as XLA computes it, in blocks where it is not in blocks by itself and would exceed the memory.

    The vjp computes the blocks again, so that it keeps none of what is within them.
    """
    function = kernel_function(kernel, implementation)
    if isinstance(kernel, Features):  # which batches its images by itself
        return function(x, z)
    per_entry = entry_bytes(kernel, x.shape[1:], x.dtype.itemsize, implementation)
    is_engine = isinstance(kernel, Architecture) and kernel.family != "FC" and implementation in ("auto", "engine")
    if is_engine or len(x) * len(z) * per_entry <= memory:
        return function(x, z)
    size = whole(len(z), len(x), per_entry, memory).size
    x_blocks, z_blocks = _blocks(x, size.rows), _blocks(z, size.columns)
    block = jax.checkpoint(function)
    matrix = jax.lax.map(lambda rows: jax.lax.map(lambda columns: block(rows, columns), z_blocks), x_blocks)
    matrix = jnp.swapaxes(matrix, 1, 2).reshape(x_blocks.shape[0] * size.rows, z_blocks.shape[0] * size.columns)
    return matrix[: len(x), : len(z)]


def _blocks(images: Any, size: int) -> jax.Array:
    """Return images in blocks (blocks, size, H, W, C), filled up with copies of the last, which are differentiable."""
    count = -(-len(images) // size)
    filled = jnp.concatenate([images, jnp.repeat(images[-1:], count * size - len(images), axis=0)])
    return filled.reshape(count, size, *images.shape[1:])


__all__ = ["KernelFn", "kernel", "kernel_fn"]
