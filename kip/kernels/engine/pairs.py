"""The kernel of a convolutional network: features of each image, then blocks of pairs.

    conv     K <- w/9 box(K) + b,  T <- w/9 box(T) + b
    f        K, T <- their dual under the activation (`kip.kernels.engine.dual`)
    pool     K, T <- means over 2x2 x 2x2 position pairs
    readout  K <- w mean K + b,  T <- w mean T + b

for weights W_std^2 = w and biases b_std^2 = b; K_0 = T_0 is the mean over channels of x z'. What depends on one image
is computed once an image: its variances K(p, p) at every activation, which poolings make a small kernel of their own.

Pairs go through in chunks (`chunks.py`), and a chunk's planes in a loop over the shifts along y, so that what a plane
needs stays in cache on a CPU, and memory does not grow with the block. The vjp computes each plane again, pulls it
back, and sums what belongs to one image over planes and pairs before it follows that image's variances to its pixels.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from kip.kernels.architecture import Architecture
from kip.kernels.engine import chunks
from kip.kernels.engine import planes as P
from kip.kernels.engine.activations import DUALS
from kip.kernels.engine.dual import Dual, Variance, activate, variance
from kip.kernels.levels import Level, levels, variance_levels


class Network(NamedTuple):
    """The constants of a network: its convolutions' factor w / 9 and summand b, its dual, and whether T is wanted."""

    w: float
    b: float
    dual: Dual
    ntk: bool


def _network(architecture: Architecture) -> Network:
    w, b = architecture.w_std**2 / 9, architecture.b_std**2
    return Network(w, b, DUALS[architecture.activation], architecture.get == "ntk")


class Pixels(NamedTuple):
    """The first level's input: both images, (H, W, C, P)."""

    x: Array
    z: Array


class Planes(NamedTuple):
    """A level's input or result: K and T (None for the NNGP) for all shifts along y, (shifts, *plane).

    The last level's result has T alone, or K for the NNGP.
    """

    nngp: Any
    ntk: Any


class Variances(NamedTuple):
    """The variances of both images at each convolution of a level, (h, w, P)."""

    x: Sequence[Variance]
    z: Sequence[Variance]


def kernel(architecture: Architecture, x: Array, z: Array) -> Array:
    """Return the kernel (N, M) of images x (N, H, W, C) and z (M, H, W, C), both float32 or both float64."""
    block = functools.partial(pair_values, architecture)
    most = _most_pairs(levels(architecture, *x.shape[1:3]))
    # z goes first: the gradient with respect to a pair's first image needs no values moved to their partners, and a
    # tile of K(X_t, X_s) asks for that of its columns only.
    return chunks.over_pairs(block, features(architecture, z), features(architecture, x), most).T


class Features(NamedTuple):
    """The values that a kernel needs of each image: pixels (H, W, C, N), and variances [level][conv] (h, w, N)."""

    pixels: Array
    variances: list[list[Variance]]


def features(architecture: Architecture, images: Array) -> Features:
    """Return the features of images (N, H, W, C)."""
    pixels = jnp.moveaxis(images, 0, -1)
    most = _most_pairs(variance_levels(levels(architecture, *images.shape[1:3])))
    return Features(pixels, chunks.over_images(functools.partial(_variances, architecture), pixels, most))


def _most_pairs(of: Sequence[Level]) -> int:
    """Return how many pairs a chunk takes that goes through these levels: what suits the first, the largest."""
    return chunks.most_pairs(of[0].plane_size) if of else chunks.MOST


def pair_values(architecture: Architecture, x: Features, z: Features) -> Array:
    """Return the kernel of pairs, (P,), from the features of their first and of their second images, N = P."""
    w, b = architecture.w_std**2, architecture.b_std**2
    network = _network(architecture)
    state: Any = Pixels(x.pixels, z.pixels)
    for i, level in enumerate(levels(architecture, *x.pixels.shape[:2])):
        state = _level(level, network, state, Variances(x.variances[i], z.variances[i]))
        if i == 0:
            # The vjp of a block keeps this much of a pair, and computes all else again.
            state = Planes(*(None if part is None else checkpoint_name(part, chunks.KEPT) for part in state))
    return w * (state.ntk if network.ntk else state.nngp) + b


def _variances(architecture: Architecture, pixels: Array) -> list[list[Variance]]:
    """Return K(p, p) at every activation, [level][conv] (h, w, N), for pixels (H, W, C, N)."""
    network = _network(architecture)._replace(ntk=False)
    pair_levels = levels(architecture, *pixels.shape[:2])
    own_levels = variance_levels(pair_levels)
    everywhere = np.ones((1, 1, 1, 1), pixels.dtype)
    channels = list(jnp.moveaxis(pixels, 2, 0))
    state, value = Pixels(pixels, pixels), _mean_product(channels, channels)
    maps: list[list[Variance]] = []
    for i, pair_level in enumerate(pair_levels):
        maps.append([])
        for _ in range(pair_level.convs):
            value = network.w * P.box(value[:, None], everywhere, True)[:, 0] + network.b
            maps[i].append(Variance(value, variance(network.dual, value).inverse_root))
            value = network.dual.next_variance(value)
        if i < len(own_levels):
            level = own_levels[i]
            state = _level(level, network, state, Variances(maps[i], maps[i]))
            rows, columns = (level.rows - 1) // 2, None if level.columns is None else (level.columns - 1) // 2
            value = P.equal_positions(state.nngp, level._replace(rows=rows, columns=columns))
    return maps


def _mean_product(x: list[Array], z: list[Array]) -> Array:
    """Return the mean over channels of x z; one function for pairs and variances, for the same bits at equal images."""
    return functools.reduce(operator.add, (a * b for a, b in zip(x, z, strict=True))) * (1 / len(x))


def _level(level: Level, network: Network, state: Pixels | Planes, variances: Variances) -> Planes:
    """Follow pairs through a level: to the next level's planes, or to K and T (P,) before the last weights."""
    result: Any = _every_plane(level, network, state, variances)
    if level.end == "pool":
        return Planes(*(None if part is None else P.pool_rows(part, level) for part in result))
    return Planes(*(None if part is None else part.sum(0) for part in result))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _every_plane(level: Level, network: Network, state: Pixels | Planes, variances: Variances) -> Planes:
    """Compute each shift's plane in a loop, up to its end along x; the results are stacked on axis 0."""
    rows = _Rows(level, state, variances)

    def step(before, i):
        # A loop writes its results one step late, from what it carries: written as they are computed, XLA for CPUs
        # would fuse the computation with the write, which it does not spread over cores.
        return _plane(level, network, *rows.of(i)), before

    first = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(lambda: step(None, 0)[0]))
    last, late = jax.lax.scan(step, first, jnp.arange(rows.count))
    return jax.tree.map(lambda a, b: jnp.concatenate([a[1:], b[None]]), late, last)


def _forward(level, network, state, variances):
    return _every_plane(level, network, state, variances), (state, variances)


def _backward(level: Level, network: Network, saved, bars: Planes):
    """Compute each plane again and pull its cotangent back; what belongs to one image is summed over the planes."""
    state, variances = saved
    rows = _Rows(level, state, variances)
    first = isinstance(state, Pixels)
    channels = state.x.shape[2] if first else 0
    x_by_partner = rows.x_by_partner if first else []

    def pull(i, bar):
        """Return the cotangents of one plane: of its input, and of each image's values; for z, summed over partners."""
        inputs, v_x, v_z, mask = rows.of(i)

        def plane(inputs, log_q):
            return _plane(level, network, inputs, v_x, v_z, mask, log_q)

        zeros = [jnp.zeros_like(inputs.nngp) for _ in v_x]
        inputs_bar, to_x = jax.vjp(plane, inputs, zeros)[1](bar)
        to_z = [P.sum_z(P.by_partner(log_bar, level)) for log_bar in to_x]
        to_x = [P.sum_x(log_bar, level) for log_bar in to_x]
        if not first:
            return inputs_bar, to_x, to_z
        products_bar = inputs_bar.nngp * (1 / channels)
        moved = P.by_partner(products_bar, level)
        to_x = to_x + [P.sum_x(products_bar * z, level) for z in rows.take(rows.z, i)]
        to_z = to_z + [P.sum_z(moved * x) for x in x_by_partner]
        return None, to_x, to_z

    def step(carry, inputs):
        (planes_bar, to_x, to_z), total_x, total_z = carry
        i, bar = inputs
        total_x = [total + part for total, part in zip(total_x, to_x)]
        total_z = [_add_rows(total, part, i - 1) for total, part in zip(total_z, to_z)]
        return (pull(i, bar), total_x, total_z), planes_bar  # one step late, as above

    parts = jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(lambda: pull(0, jax.tree.map(lambda a: a[0], bars)))
    )
    # Before the first step there are zeros to add, wherever an index of -1 falls.
    totals_z = [jnp.zeros((part.shape[0] + 2 * level.rows, *part.shape[1:]), part.dtype) for part in parts[2]]
    carry, late = jax.lax.scan(step, (parts, parts[1], totals_z), (jnp.arange(rows.count), bars))
    (planes_bar, to_x, to_z), total_x, total_z = carry
    total_x = [total + part for total, part in zip(total_x, to_x)]
    total_z = [P.cut_z(_add_rows(total, part, rows.count - 1), level) for total, part in zip(total_z, to_z)]

    convs = level.convs
    variances_bar = Variances(
        *(
            [
                Variance(bar * (network.dual.rate * v.inverse_root**2), jnp.zeros_like(bar))
                for v, bar in zip(values, total[:convs])
            ]
            for values, total in zip(variances, (total_x, total_z))
        )
    )
    if first:
        return Pixels(jnp.stack(total_x[convs:], 2), jnp.stack(total_z[convs:], 2)), variances_bar
    return jax.tree.map(lambda a, b: jnp.concatenate([a[1:], b[None]]), late, planes_bar), variances_bar


_every_plane.defvjp(_forward, _backward)


def _add_rows(total: Array, part: Array, i: Array | int) -> Array:
    """Add to rows [i, i + h) of a sum."""
    before = jax.lax.dynamic_slice_in_dim(total, i, len(part), axis=0)
    return jax.lax.dynamic_update_slice_in_dim(total, before + part, i, axis=0)


class _Rows:
    """The values that each plane of a level needs, laid out once for all of them."""

    def __init__(self, level: Level, state: Pixels | Planes, variances: Variances):
        self._level, self._state = level, state
        dtype = state[0].dtype
        self._mask = jnp.asarray(P.inside(level, dtype))
        self.count = len(self._mask)
        self._v_x = [Variance(*(P.x_side(part, level) for part in v)) for v in variances.x]
        self._v_z = [Variance(*(P.z_side(part, level, 1) for part in v)) for v in variances.z]
        if isinstance(state, Pixels):
            channels = range(state.x.shape[2])
            self._x = [P.x_side(state.x[:, :, c], level) for c in channels]
            self.z = [P.z_side(state.z[:, :, c], level, 0) for c in channels]

    @property
    def x_by_partner(self) -> list[Array]:
        """The first image's channels, where their partners are."""
        if self._level.columns is None:
            return self._x
        shifts = 2 * self._level.columns + 1
        return [P.by_partner(jnp.repeat(x, shifts, axis=1), self._level) for x in self._x]

    def take(self, arrays, i):
        """Take, from arrays laid out by `z_side`, the rows of plane i."""
        return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, i, self._level.height, axis=0), arrays)

    def of(self, i) -> tuple[Planes, list[Variance], list[Variance], Array]:
        """Return plane i's input, its variances, and its mask."""
        if isinstance(self._state, Pixels):
            inputs = Planes(_mean_product(self._x, self.take(self.z, i)), None)
        else:
            inputs = Planes(*(None if part is None else part[i] for part in self._state))
        return inputs, self._v_x, self.take(self._v_z, i), self._mask[i]


def _plane(
    level: Level,
    network: Network,
    inputs: Planes,
    v_x: list[Variance],
    v_z: list[Variance],
    mask: Array,
    log_q: list[Array] | None = None,
) -> Planes:
    """Follow one shift's plane through a level's convolutions and activations, and along x through its end.

    Without T in `inputs`, and where it is wanted, it begins here with T_0 = K_0. `log_q` takes gradients, see
    `activate`.
    """
    band = level.columns is not None

    def convolved(part: Array) -> Array:
        return network.w * P.box(part, mask, band) + network.b

    nngp, ntk = inputs
    if network.ntk and ntk is None:
        ntk = nngp
    for conv in range(level.convs):
        nngp, ntk = convolved(nngp), None if ntk is None else convolved(ntk)
        probe = jnp.zeros_like(nngp) if log_q is None else log_q[conv]
        nngp, ntk = activate(network.dual, nngp, ntk, v_x[conv], v_z[conv], probe)
    if level.end == "pool":
        return Planes(*(None if part is None else P.pool_columns(part, level) for part in (nngp, ntk)))
    if ntk is None:
        return Planes(P.read_out(nngp, mask, level), None)
    return Planes(None, P.read_out(ntk, mask, level))
