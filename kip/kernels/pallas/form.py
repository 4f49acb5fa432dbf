"""An architecture's kernel, made of the kernels of its layers: variances of images, then blocks of pairs, and vjps.

Layers are differentiated with respect to their first images alone. The gradient for the second ones is that for the
first ones of the block transposed: where only one is asked for, as in tiles of K(X_t, X_s), nothing of the other is
computed. An image's covariance with itself is symmetric, so that its gradient is twice that for one side.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kip.kernels.architecture import Architecture
from kip.kernels.engine import planes as P
from kip.kernels.engine.dual import Variance, variance
from kip.kernels.engine.pairs import Features, Network, Planes, _network
from kip.kernels.levels import Level, levels, variance_levels
from kip.kernels.pallas.kernel import forward, lanes_of, pull
from kip.kernels.pallas.program import Layer, Side

FUSED = 2
"""Convolutions that one kernel takes together: more would need more columns beside a strip, and more registers."""


def kernel(architecture: Architecture, x: Array, z: Array) -> Array:
    """Return the kernel (N, M) of images x (N, H, W, C) and z (M, H, W, C), float32."""
    # z goes first, see `kip.kernels.engine.pairs`: then the targets of a tile, of which there are more, fill the lanes.
    block: Any = _block(architecture, z, x)
    return block.T


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _block(architecture: Architecture, first: Array, second: Array) -> Array:
    """Return the kernel (N, M) of N first and M second images."""
    both = features(architecture, jnp.concatenate([first, second]))
    count = len(first)
    return _pairs(architecture, _some(both, 0, count), _some(both, count, count + len(second)), FUSED)


def _block_forward(architecture, first, second):
    # The keys of a dictionary are known while tracing: a gradient that nobody asks for is not even traced, as the
    # other way round its lanes may be filled up to more pairs than a tile may have.
    wanted = {name: () for name, side in (("first", first), ("second", second)) if side.perturbed}
    return _block(architecture, first.value, second.value), (first.value, second.value, wanted)


def _block_backward(architecture, saved, bar):
    def gradient(first: Array, second: Array, bar: Array) -> Array:
        others = features(architecture, second)
        return jax.vjp(lambda first: _pairs(architecture, features(architecture, first), others, 1), first)[1](bar)[0]

    first, second, wanted = saved
    if isinstance(bar, jax.custom_derivatives.SymbolicZero):
        return None, None
    return (
        gradient(first, second, bar) if "first" in wanted else None,
        gradient(second, first, bar.T) if "second" in wanted else None,
    )


_block.defvjp(_block_forward, _block_backward, symbolic_zeros=True)


def _some(images: Features, first: int, stop: int) -> Features:
    return jax.tree.map(lambda a: a[..., first:stop], images)


def _pairs(architecture: Architecture, first: Features, second: Features, fused: int) -> Array:
    """Return the kernel (N, M), differentiable with respect to the first images, if `fused` is 1."""
    w, b = architecture.w_std**2, architecture.b_std**2
    network = _network(architecture)
    rows, columns = (side.pixels.shape[-1] for side in (first, second))
    second = _filled(second)
    shape = _levels(architecture, *first.pixels.shape[:2])
    state: Any = None
    for i, level in enumerate(shape):
        for convs, end in _layers(level, fused):
            layer = Layer(level, network, len(convs), state is None, False, end)
            state = _layer(layer, state, _side(layer, first, i, convs), _side(layer, second, i, convs))
    value = _read_out(shape[-1], state.ntk if network.ntk else state.nngp)
    return w * value.reshape(rows, -1)[:, :columns] + b


def _layers(level: Level, fused: int) -> list[tuple[range, str]]:
    """Return which convolutions of a level go together, and the end of each run."""
    runs = [range(i, min(i + fused, level.convs)) for i in range(0, level.convs, fused)]
    return [(run, "pool" if run.stop == level.convs and level.end == "pool" else "planes") for run in runs]


def _side(layer: Layer, images: Features, level: int, convs: range) -> Side:
    variances = jnp.stack([jnp.stack(parts) for parts in zip(*(images.variances[level][conv] for conv in convs))])
    return Side(images.pixels if layer.pixels else None, variances)


def _levels(architecture: Architecture, height: int, width: int) -> list[Level]:
    """Return the levels with bands of shifts along x, however wide they are."""
    shape = levels(architecture, height, width)
    last = shape[-1]
    reach = last.width if last.end == "mean" else 1
    return [level._replace(columns=(reach << (len(shape) - 1 - i)) - 1) for i, level in enumerate(shape)]


def _filled(images: Features) -> Features:
    """Fill the lanes with copies of the last image."""
    count = images.pixels.shape[-1]
    missing = -count % lanes_of(count)
    return jax.tree.map(lambda a: jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, missing)], mode="edge"), images)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _layer(layer: Layer, state: Planes | None, first: Side, second: Side) -> Planes:
    """Return the planes that a layer gives, differentiable with respect to planes and first images.

    The gradient for the first images of a layer of images with themselves is that for both sides.
    """
    planes = forward(layer, state, first, second)
    if layer.end != "pool":
        return planes
    return Planes(*(None if part is None else 0.25 * P.pool_rows(part[:, :, 1:-1], layer.level) for part in planes))


def _layer_forward(layer, state, first, second):
    return _layer(layer, state, first, second), (state, first, second)


def _layer_backward(layer: Layer, saved, bars):
    state, first, second = saved
    if layer.end == "pool":
        around = ((1, 1), (0, 0), (1, 1), (0, 0), (0, 0))
        bars = Planes(*(None if bar is None else jnp.pad(bar / 16, around) for bar in bars))
    to_planes, to_pixels, to_logs = pull(layer, state, first, second, bars)

    def of_image(pairs: Array) -> Array:
        """Add up over shifts along y and over second images."""
        total = pairs.sum(0)
        return 2 * total if layer.own else total.reshape(*total.shape[:-1], first.variances.shape[-1], -1).sum(-1)

    # dlog q / dv; the inverse roots get no gradient.
    rate = layer.network.dual.rate * first.variances[1] ** 2
    to_values = of_image(to_logs)[None] * rate
    to_variances = jnp.stack([to_values, jnp.zeros_like(to_values)])
    return to_planes, Side(None if to_pixels is None else of_image(to_pixels), to_variances), None


_layer.defvjp(_layer_forward, _layer_backward)


def _read_out(level: Level, planes: Array) -> Array:
    """Return the mean over equal positions (`flatten`) or over all pairs (`mean`), (P,)."""
    inside = P.inside(level, np.dtype(bool))
    total = jnp.where(inside, planes, 0).sum((0, 1, 2, 3))
    return total / (level.height * level.width) ** (2 if level.end == "mean" else 1)


def features(architecture: Architecture, images: Array) -> Features:
    """Return the features of images (N, H, W, C): the pixels, and K(p, p) at every activation.

    They are computed by the kernels of pairs, for an image's covariance with an equal one has to be this to the bit.
    """
    network = _network(architecture)._replace(ntk=False)
    count = len(images)
    pixels = jnp.moveaxis(images, 0, -1)
    pixels = jnp.pad(pixels, [(0, 0)] * 3 + [(0, -count % lanes_of(count))], mode="edge")
    pair_levels = levels(architecture, *images.shape[1:3])
    own_levels = variance_levels(pair_levels)
    value: Any = None
    state: Any = None
    maps: list[list[Variance]] = []
    for i, level in enumerate(pair_levels):
        maps.append([])
        for _ in range(level.convs):
            value = _convolved(level, network, pixels if value is None else value)
            maps[i].append(Variance(value, variance(network.dual, value).inverse_root))
            value = network.dual.next_variance(value)
        if i < len(own_levels):
            level = own_levels[i]._replace(columns=own_levels[i].rows)
            for convs, end in _layers(level, 1):
                layer = Layer(level, network, 1, state is None, True, end)
                side = _side(layer, Features(pixels, maps), i, convs)
                state = _layer(layer, state, side, jax.lax.stop_gradient(side))
            middle = (level.rows - 1) // 2
            value = state.nngp[middle, :, middle]
    return _some(Features(pixels, maps), 0, count)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _convolved(level: Level, network: Network, value: Array) -> Array:
    """Return the variances (h, w, N) of a convolution of variances (h, w, N) or of pixels (h, w, C, N)."""
    level = level._replace(rows=0, columns=0)
    pixels = value if value.ndim == 4 else None
    state = None if value.ndim == 4 else Planes(value[None, :, None], None)
    side = Side(pixels, jnp.ones((2, 1, 1, 1, value.shape[-1]), value.dtype))
    return forward(Layer(level, network, 1, value.ndim == 4, True, "covariances"), state, side, side).nngp[0, :, 0]


def _convolved_backward(level, network, value, bar):
    everywhere = np.ones((1, 1, 1, 1), bar.dtype)
    bar = network.w * P.box(bar[:, None], everywhere, True)[:, 0]
    return (bar if value.ndim == 3 else bar[:, :, None] * value * (2 / value.shape[2]),)


_convolved.defvjp(lambda level, network, value: (_convolved(level, network, value), value), _convolved_backward)
