"""The one file that imports neural_tangents: the reference for every network kernel, and the way to `stax` networks.

neural-tangents 0.6.5, its last release, was written for JAX 0.5. It takes names from JAX that later releases moved, and
loads TensorFlow for a feature that kip does not use. Importing this file imports neural-tangents nevertheless, on JAX
0.6.2 to 0.12 (and neural-tangents 0.6.4, which the launchpad extra needs): the missing names are put back while it
loads, and taken away again, because it binds them as it loads and nobody else should come to rely on them.

If the program has imported neural_tangents before, that module is used.

One function of neural-tangents is replaced for float64, with the same values: see `_avoid_float64_convolutions`.

Importing this file raises `MissingExtraError` if neural-tangents is not installed or does not load.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import math
import operator
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from kip.errors import MissingExtraError
from kip.kernels.architecture import MYRTLE_BLOCKS, Architecture

_CORE_NAMES = ("AbstractValue", "Jaxpr", "JaxprEqn", "Literal", "Primitive", "ShapedArray", "Value", "Var")
_ABSENT = object()


def _safe_map(function: Callable[..., Any], *columns: Any) -> list[Any]:
    """Return `list(map(function, *columns))`, refusing columns of unequal length."""
    return [function(*row) for row in zip(*columns, strict=True)]


def _safe_zip(*columns: Any) -> list[tuple[Any, ...]]:
    """Return `list(zip(*columns))`, refusing columns of unequal length."""
    return list(zip(*columns, strict=True))


def _missing_names() -> Iterator[tuple[types.ModuleType, str, Any]]:
    """Yield (module, name, value) for each name that neural-tangents takes from JAX and this JAX does not have."""
    core, moved = importlib.import_module("jax.core"), importlib.import_module("jax.extend.core")
    for name in _CORE_NAMES:
        if not hasattr(core, name):
            # jax.extend.core is where JAX publishes most of them now; the rest are in the private module only.
            home = moved if hasattr(moved, name) else importlib.import_module("jax._src.core")
            yield core, name, getattr(home, name)
    ad = importlib.import_module("jax.interpreters.ad")
    if not hasattr(ad, "zeros_like_p"):
        yield ad, "zeros_like_p", importlib.import_module("jax._src.ad_util").zeros_like_p
    if not hasattr(jax.random, "KeyArray"):  # neural-tangents 0.6.4, in annotations
        yield jax.random, "KeyArray", jax.Array
    if not hasattr(jax, "linear_util"):  # neural-tangents 0.6.4
        yield jax, "linear_util", importlib.import_module("jax.extend.linear_util")


def _missing_modules() -> Iterator[tuple[str, types.ModuleType]]:
    """Yield (name, stand-in) for each module that has to stand in `sys.modules` while neural-tangents loads."""
    yield "neural_tangents.experimental", types.ModuleType("neural_tangents.experimental")  # it imports TensorFlow
    try:
        util = importlib.import_module("jax.util")
        complete = hasattr(util, "safe_map") and hasattr(util, "safe_zip")
    except ImportError:
        complete = False
    if not complete:
        util = types.ModuleType("jax.util")
        util.safe_map, util.safe_zip = _safe_map, _safe_zip  # type: ignore[attr-defined]
        yield "jax.util", util


@contextlib.contextmanager
def _older_jax() -> Iterator[None]:
    """Give JAX the names of its release 0.5, and neural-tangents an empty `experimental`, for a while."""
    with contextlib.ExitStack() as undo, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # asking JAX for a name that it is about to drop warns
        for module, name, value in list(_missing_names()):
            setattr(module, name, value)
            undo.callback(delattr, module, name)
        for name, stand_in in list(_missing_modules()):
            undo.callback(_restore_module, name, sys.modules.get(name, _ABSENT))
            sys.modules[name] = stand_in
        yield


def _restore_module(name: str, before: Any) -> None:
    if before is _ABSENT:
        sys.modules.pop(name, None)
    else:
        sys.modules[name] = before


def _load() -> types.ModuleType:
    """Import neural_tangents; Python's lock on this file's own import makes it happen once, whatever the threads."""
    if sys.modules.get("neural_tangents") is not None:
        return importlib.import_module("neural_tangents")  # waits if another thread is in the middle of it
    if importlib.util.find_spec("neural_tangents") is None:
        raise MissingExtraError(
            "neural-tangents, which computes the kernels of infinitely wide networks, is not installed",
            remedy="Run `pip install neural-tangents==0.6.5`.",
        )
    try:
        with _older_jax():
            module = importlib.import_module("neural_tangents")
    except (ImportError, AttributeError) as error:
        raise MissingExtraError(
            f"neural-tangents does not load on JAX {jax.__version__}",
            got=f"{type(error).__name__}: {error}",
            remedy="Install neural-tangents 0.6.5 and a JAX from 0.6.2 to 0.12.",
        ) from error
    # The stand-in must not shadow the real one: `import neural_tangents.experimental` loads it for whoever wants it.
    vars(module).pop("experimental", None)
    return module


def _avoid_float64_convolutions() -> None:
    """Make neural-tangents compute float64 covariances of convolutions by shifted sums.

    It convolves the plane (h, h') of a covariance with a diagonal filter. In float32, XLA calls a library on CPUs.
    In float64 it generates code (seen in JAX 0.10.2) that loads the zero padding from memory before masking it away:
    where an array begins at a memory page, it reads before the page, and the interpreter dies of a segmentation fault,
    every few calls. The sum over the filter's diagonal of shifted slices is the same number.
    """
    linear: Any = importlib.import_module("neural_tangents._src.stax.linear")
    original, loop = linear._conv_kernel_full_spatial_shared, linear._conv_kernel_full_spatial_loop
    if getattr(original, "__module__", None) == __name__:
        return  # this file was imported before, and again

    @functools.wraps(original, assigned=())
    def shared(lhs: Any, filter_shape: Any, strides: Any, padding: Any, batch_ndim: int) -> Any:
        if lhs is None or lhs.ndim == 0 or lhs.dtype != "float64" or padding.name not in ("SAME", "VALID"):
            return original(lhs, filter_shape, strides, padding, batch_ndim)
        return loop(lhs, filter_shape, strides, padding, _diagonal_convolution, lambda _: 1)

    linear._conv_kernel_full_spatial_shared = shared


def _diagonal_convolution(planes: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: str) -> jax.Array:
    """Return the mean over i < n of planes[..., h + i, h' + i], padded with zeros: what a convolution with I/n gives.

    Args:
        planes: (..., H, H').
        kernel: I/n, of any layout; its size n^2 is all that is looked at.
        strides: the strides of h and h'.
        padding: "SAME" or "VALID".
    """
    size = math.isqrt(kernel.size)
    pads = jax.lax.padtype_to_pads(planes.shape[-2:], (size, size), strides, padding)
    planes = jnp.pad(planes, [(0, 0)] * (planes.ndim - 2) + list(pads))
    rows, columns = (side - size + 1 for side in planes.shape[-2:])
    shifted = [planes[..., i : i + rows : strides[0], i : i + columns : strides[1]] for i in range(size)]
    return functools.reduce(operator.add, shifted) / size


neural_tangents = _load()
stax = importlib.import_module("neural_tangents.stax")
_avoid_float64_convolutions()


@functools.lru_cache(maxsize=64)
def network(architecture: Architecture) -> Callable[..., jax.Array]:
    """Return the neural-tangents kernel function of an architecture.

    Args:
        architecture: the layers, W_std, b_std and activation; `architecture.get` is not looked at.

    Returns:
        A function `kernel(x, z, get)` of batches (N, H, W, C) and (M, H, W, C) and of "ntk" or "nngp" that gives (N, M)
        in the widest float type that JAX has enabled. Give it both batches: `kernel(x, None, get)` has crashed the
        interpreter under jit. The same architecture gives the same function, so that jit caches hit.
    """
    return stax.serial(*_layers(architecture))[2]


def _layers(architecture: Architecture) -> list[Any]:
    """List the stax layers of an architecture, after the table in `Architecture`."""
    scale = {"W_std": architecture.w_std, "b_std": architecture.b_std}
    activation = {"relu": stax.Relu, "erf": stax.Erf}[architecture.activation]
    conv = [stax.Conv(1, (3, 3), padding="SAME", **scale), activation()]
    pool = [stax.AvgPool((2, 2), (2, 2))]
    flatten, readout = [stax.Flatten()], [stax.Dense(1, **scale)]
    depth = architecture.layers
    if architecture.family == "FC":
        return flatten + [stax.Dense(1, **scale), activation()] * depth + readout
    if architecture.family == "ConvVec":
        return conv * depth + flatten + readout
    if architecture.family == "ConvNet":
        return conv + (conv + pool) * depth + flatten + readout
    if architecture.family == "ConvNet3":
        return (conv + pool) * depth + flatten + readout
    first, second, last = MYRTLE_BLOCKS[depth]
    return conv + conv * first + pool + conv * second + pool + conv * last + [stax.GlobalAvgPool()] + readout
