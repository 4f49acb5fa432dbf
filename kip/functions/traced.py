"""A network's kernel inside a JAX program on CPUs: the fused form, which JAX cannot trace, behind a callback.

The callback computes on the host what tiles compute (`kip.blocks.tile`), in the blocks of `KernelBlocks.matrix` and
thus to its bits; the program waits for it. It calls NumPy and compiled code alone: a callback that calls JAX may wait
for the thread that it runs on, see `_PRIMITIVE`. The vjp is written by hand: it pulls back what is differentiated and
nothing else, in the precision of the cotangent, which is that of the values. The second derivative is refused.

Under `vmap` the callback runs once for each entry of the batch, one after the other, because each call uses every
processor; a batch axis that is written as more images is faster. In a program over several devices, what is sharded is
gathered on one of them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import ShapedArray
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from kip.blocks.plan import Plan, whole
from kip.errors import ConfigError
from kip.kernels import Architecture, entry_bytes


class Host:
    """The blocks of an architecture's kernel and their vjp, of arrays on the host; its methods are what callbacks call.

    Args:
        architecture: the network, of those that the fused form computes.
        memory_mib: the temporary memory of a block.
    """

    def __init__(self, architecture: Architecture, memory_mib: int):
        from kip.kernels.fused.form import Form

        self._form, self._memory = Form(architecture), memory_mib << 20

    def block(self, x: Any, z: Any) -> np.ndarray:
        """Return K(x, z), (N, M)."""
        x, z = np.asarray(x), np.asarray(z)
        block = np.zeros((len(x), len(z)), x.dtype)
        for task in self._plan(x, z).ts:
            rows, columns = task.where
            block[task.where] = self._form.forward(x[rows], z[columns])
        return block

    def symmetric(self, x: Any) -> np.ndarray:
        """Return K(x, x), (N, N), symmetric to the last bit."""
        x = np.asarray(x)
        block = np.zeros((len(x), len(x)), x.dtype)
        for task in self._plan(x, None).ss:
            rows, columns = task.where
            if task.rows == task.columns:
                block[task.where] = self._form.forward_diagonal(x[rows])
            else:
                block[task.where] = self._form.forward(x[rows], x[columns])
                block[columns, rows] = block[task.where].T
        return block

    def pull_x(self, x: Any, z: Any, bar: Any) -> tuple[np.ndarray]:
        """Return the gradient of sum(bar * K(x, z)) for x."""
        return (self._pull(x, z, bar, True, False)[0],)

    def pull_z(self, x: Any, z: Any, bar: Any) -> tuple[np.ndarray]:
        """Return the gradient of sum(bar * K(x, z)) for z."""
        return (self._pull(x, z, bar, False, True)[1],)

    def pull_both(self, x: Any, z: Any, bar: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients of sum(bar * K(x, z)) for x and for z."""
        return self._pull(x, z, bar, True, True)

    def pull_symmetric(self, x: Any, bar: Any) -> tuple[np.ndarray]:
        """Return the gradient of sum(bar * K(x, x)) for x; every entry of bar is taken as independent."""
        x, bar = np.asarray(x), np.asarray(bar)
        gradient = np.zeros_like(x)
        for task in self._plan(x, None).ss:
            rows, columns = task.where
            if task.rows == task.columns:
                gradient[rows] += self._form.pull_diagonal(x[rows], bar[task.where])
            else:
                both = bar[task.where] + bar[columns, rows].T
                to_rows, to_columns = self._form.pull_both(x[rows], x[columns], both)
                gradient[rows] += to_rows
                gradient[columns] += to_columns
        return (gradient,)

    def _pull(self, x: Any, z: Any, bar: Any, for_x: bool, for_z: bool) -> tuple[np.ndarray, np.ndarray]:
        x, z, bar = np.asarray(x), np.asarray(z), np.asarray(bar)
        to_x, to_z = np.zeros_like(x), np.zeros_like(z)
        for task in self._plan(x, z).ts:
            rows, columns = task.where
            gradient = self._form.value_and_pull(x[rows], z[columns], bar[task.where], for_x, for_z)
            if gradient.x is not None:
                to_x[rows] += gradient.x
            if gradient.z is not None:
                to_z[columns] += gradient.z
        return to_x, to_z

    def _plan(self, x: np.ndarray, z: np.ndarray | None) -> Plan:
        columns = x if z is None else z
        if not len(x) or not len(columns):
            return Plan([], [], None)  # type: ignore[arg-type]  # no task asks for the size of its tiles
        shape: Any = x.shape[1:]
        per_entry = entry_bytes(self._form.architecture, shape, x.dtype.itemsize)
        return whole(len(columns), None if z is None else len(x), per_entry, self._memory)


host = functools.lru_cache(maxsize=64)(Host)
"""Return the `Host` of an architecture and of a block's memory; the same object for equal ones, so that JAX compiles
once."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def block(host: Host, x: Array, z: Array) -> Array:
    """Return K(x, z), (N, M), of images x (N, H, W, C) and z (M, H, W, C), both float32 or both float64."""
    return _call("block", host, [(len(x), len(z))], x, z)[0]


def _block_forward(host: Host, x: Any, z: Any) -> tuple[Array, Any]:
    wanted = [() if side.perturbed else None for side in (x, z)]  # a tree without leaves: no value of the program
    return block(host, x.value, z.value), (x.value, z.value, wanted)


def _block_backward(host: Host, saved: Any, bar: Any) -> tuple[Array | None, Array | None]:
    x, z, (for_x, for_z) = saved
    if isinstance(bar, SymbolicZero) or (for_x is None and for_z is None):
        return None, None
    if for_x is None:
        return None, _call("pull_z", host, [z.shape], x, z, bar)[0]
    if for_z is None:
        return _call("pull_x", host, [x.shape], x, z, bar)[0], None
    to_x, to_z = _call("pull_both", host, [x.shape, z.shape], x, z, bar)
    return to_x, to_z


block.defvjp(_block_forward, _block_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def symmetric(host: Host, x: Array) -> Array:
    """Return K(x, x), (N, N), of images (N, H, W, C), float32 or float64."""
    return _call("symmetric", host, [(len(x), len(x))], x)[0]


def _symmetric_forward(host: Host, x: Array) -> tuple[Array, Array]:
    return symmetric(host, x), x


def _symmetric_backward(host: Host, x: Array, bar: Array) -> tuple[Array]:
    return (_call("pull_symmetric", host, [x.shape], x, bar)[0],)


symmetric.defvjp(_symmetric_forward, _symmetric_backward)


def _call(name: str, host: Host, like: Sequence[tuple[Any, ...]], *arguments: Array) -> Sequence[Array]:
    """Call a method of the host; its arrays have the shapes that are given, and the dtype of the first argument."""
    results = tuple(ShapedArray(shape, arguments[0].dtype) for shape in like)
    return _PRIMITIVE.bind(*arguments, name=name, host=host, results=results)


_PRIMITIVE = Primitive("kip_kernel")
"""A call of a host's method. `jax.pure_callback` does the same, but hands over arrays of JAX's: reading one waits for a
copy that another thread makes, and with a callback on each thread of the pool they wait forever (seen with JAX 0.10.2,
two devices on two processors). Here the method is given NumPy's."""
_PRIMITIVE.multiple_results = True


@_PRIMITIVE.def_impl
def _eager(*arguments: Any, **settings: Any) -> Sequence[Array]:
    return _jitted(*settings.items())(*arguments)


@functools.lru_cache(maxsize=1024)
def _jitted(*settings: tuple[str, Any]) -> Any:
    return jax.jit(functools.partial(_PRIMITIVE.bind, **dict(settings)))


@_PRIMITIVE.def_abstract_eval
def _abstract(*arguments: Any, results: tuple[ShapedArray, ...], **settings: Any) -> tuple[ShapedArray, ...]:
    return results


def _lowered(ctx: Any, *arguments: Any, name: str, host: Host, results: tuple[ShapedArray, ...]) -> Any:
    method = getattr(host, name)

    def call(*arguments: np.ndarray) -> tuple[np.ndarray, ...]:
        result = method(*arguments)
        return result if isinstance(result, tuple) else (result,)

    return mlir.emit_python_callback(
        ctx, call, None, list(arguments), ctx.avals_in, ctx.avals_out, has_side_effect=False
    )[0]


mlir.register_lowering(_PRIMITIVE, _lowered)


def _batched(arguments: Sequence[Array], axes: Sequence[int | None], **settings: Any) -> tuple[Any, list[int]]:
    """Call once for each entry of the batch, in turn."""
    along = [place for place, axis in enumerate(axes) if isinstance(axis, int)]
    parts = [jnp.moveaxis(arguments[place], axes[place], 0) for place in along]  # type: ignore[arg-type]

    def call(part: list[Array]) -> Sequence[Array]:
        mixed = list(arguments)
        for place, array in zip(along, part):
            mixed[place] = array
        return _PRIMITIVE.bind(*mixed, **settings)

    result = jax.lax.map(call, parts)
    return result, [0] * len(result)


batching.primitive_batchers[_PRIMITIVE] = _batched


def _refuse(*_: Any, **__: Any) -> Any:
    raise ConfigError(
        "the second derivative of a kernel",
        got="the form for CPUs, whose vjp is compiled",
        expected="the first derivative, in reverse mode (grad, vjp, jacrev)",
        remedy="Take the form that JAX traces, twice in reverse mode: kip.kernel(..., implementation='engine').",
    )


ad.primitive_jvps[_PRIMITIVE] = _refuse
