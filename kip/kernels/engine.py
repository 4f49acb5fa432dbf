"""Our own kernels of ReLU networks with convolutions and pooling: ConvNet, ConvNet3, Myrtle; NTK and NNGP.

They follow the same recursion as neural-tangents, which stays the reference (`kip.kernels.neural_tangents`) and which
the tests compare with, and differ in how it is computed:

- Pairs of images are the minor axis. A pair's covariances are laid out as K[y, y', x, x', n, m], so that a convolution
  is a sum of shifted slices, pooling a mean over leading axes, and everything vectorises over the pairs.
- arccos is a polynomial times sqrt(1 - c) in float32 (error 2e-8), which vectorises where a library's does not.
- The ReLU layer has a hand-written vjp that recomputes the angle, and needs no derivative of arccos:
  d nngp / dK = (pi - theta) / 2 pi. It is finite everywhere, equal images included.
- Box sums are their own transpose, and say so.

The recursion, for weights W_std^2 = w and biases b_std^2 = b, in NTK parameterisation (nngp K, ntk T, K_0 the mean over
channels of x z', T_0 = 0; box the sum over a 3x3 window, zero outside the image):

    conv     K <- w/9 box(K) + b,  T <- K + w/9 box(T)
    relu     K <- sqrt(v v') (sin theta + (pi - theta) cos theta) / 2 pi,  T <- T (pi - theta) / 2 pi,
             cos theta = K / sqrt(v v'),  v and v' the two images' own K(p, p)
    pool     K, T <- means over 2x2 x 2x2 position pairs
    readout  K <- w mean K(p, p') + b,  T <- K + w mean T(p, p');  flatten: over p = p';  global average pool: over all

Every position pair is computed.

In float32 the gradient of two images that nearly coincide loses digits, eps / theta^2 of it at an angle theta, because
the cosine is rounded; equal images are not concerned, and float64 (`blocks.dtype`) is the way out.

References: Arora et al. 2019, "On Exact Computation with an Infinitely Wide Neural
Net"; Cho and Saul 2009 for the ReLU; Abramowitz and Stegun 1964, 4.4.46 for the polynomial.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from kip.kernels.architecture import MYRTLE_BLOCKS, Architecture

Layer = Literal["conv", "pool"]
"""`conv` is followed by its ReLU."""

ARCCOS = (1.5707963050, -0.2145988016, 0.0889789874, -0.0501743046, 0.0308918810, -0.0170881256, 0.0066700901, -0.0012624911)  # fmt: skip  # noqa: E501


class Covariances(NamedTuple):
    """Covariances of position pairs, each (h, h', w, w', ...) with the images on the trailing axes."""

    nngp: Array
    ntk: Array | None


def supports(architecture: Architecture) -> bool:
    """Return whether this file computes an architecture."""
    return architecture.family in ("ConvNet", "ConvNet3", "Myrtle") and architecture.activation == "relu"


def network(architecture: Architecture) -> Callable[[Array, Array], Array]:
    """Return the kernel function of an architecture that `supports` accepts.

    Returns:
        A function of images x (N, H, W, C) and z (M, H, W, C), both float32 or both float64, that gives the kernel
        (N, M). Differentiable in both; where x_i = z_j, with the finite limit of the gradient.
    """
    layers, flatten = _layers(architecture)
    w, b = architecture.w_std**2, architecture.b_std**2
    with_ntk = architecture.get == "ntk"

    def kernel(x: Array, z: Array) -> Array:
        variances = [_variances(images, layers, w, b) for images in (x, z)]
        channels = x.shape[-1]
        pairs = jnp.einsum("nhwc,mijc->hiwjnm", x, z, precision="highest") / channels
        state = Covariances(pairs, None)
        position = 0
        for layer in layers:
            if layer == "pool":
                state = Covariances(_pool(state.nngp), None if state.ntk is None else _pool(state.ntk))
                continue
            nngp = w / 9 * _box(state.nngp) + b
            v_x, v_z = (each[position] for each in variances)
            v_x, v_z = v_x[:, None, :, None, :, None], v_z[None, :, None, :, None, :]
            position += 1
            if with_ntk:
                ntk = nngp if state.ntk is None else nngp + w / 9 * _box(state.ntk)
                state = Covariances(*_relu(nngp, ntk, v_x, v_z))
            else:
                state = Covariances(_relu_nngp(nngp, v_x, v_z), None)
        nngp = w * _mean(state.nngp, flatten) + b
        return nngp if state.ntk is None else nngp + w * _mean(state.ntk, flatten)

    return kernel


def _layers(architecture: Architecture) -> tuple[Sequence[Layer], bool]:
    """List the layers, and whether the readout follows a flatten (or else a global average pool)."""
    if architecture.family == "Myrtle":
        first, second, last = MYRTLE_BLOCKS[architecture.layers]
        counts: list[tuple[Layer, int]] = [
            ("conv", 1 + first),
            ("pool", 1),
            ("conv", second),
            ("pool", 1),
            ("conv", last),
        ]
        return [layer for layer, count in counts for _ in range(count)], False
    prepended: list[Layer] = ["conv"] if architecture.family == "ConvNet" else []
    block: list[Layer] = ["conv", "pool"]
    layers: list[Layer] = [*prepended, *(block * architecture.layers)]
    return layers, True


def _variances(images: Array, layers: Sequence[Layer], w: float, b: float) -> list[Array]:
    """Return each ReLU's variance map K(p, p), (h, w, N), for images (N, H, W, C).

    Poolings mix the position pairs of one image, so that its covariance with itself is followed as a pair's is.
    """
    pairs = jnp.einsum("nhwc,nijc->hiwjn", images, images, precision="highest") / images.shape[-1]
    maps: list[Array] = []
    for i, layer in enumerate(layers):
        if layer == "pool":
            pairs = _pool(pairs)
            continue
        pairs = w / 9 * _box(pairs) + b
        variance = jnp.einsum("hhwwn->hwn", pairs)
        maps.append(variance)
        if i < len(layers) - 1:
            pairs = _relu_nngp(pairs, variance[:, None, :, None], variance[None, :, None, :])
    return maps


@jax.custom_vjp
def _box(planes: Array) -> Array:
    """Return the sum over d, e in {-1, 0, 1} of K[y + d, y' + d, x + e, x' + e], zero outside, (h, h', w, w', ...)."""
    return _box_axis(_box_axis(planes, 0), 2)


def _box_axis(planes: Array, axis: int) -> Array:
    later: tuple[slice, ...] = tuple(
        slice(1, None) if i in (axis, axis + 1) else slice(None) for i in range(planes.ndim)
    )
    sooner = tuple(slice(None, -1) if i in (axis, axis + 1) else slice(None) for i in range(planes.ndim))
    # Added in place, which XLA does at twice the speed of padding and slicing.
    return planes.at[later].add(planes[sooner]).at[sooner].add(planes[later])


# A box sum with zero padding is symmetric: its transpose is itself.
_box.defvjp(lambda planes: (_box(planes), None), lambda _, bar: (_box(bar),))


def _pool(planes: Array) -> Array:
    """Return the 2x2 average pool of both positions; an odd last row or column is dropped, as VALID padding does."""
    h, w = planes.shape[0] // 2, planes.shape[2] // 2
    rest = planes.shape[4:]
    cut = planes[: 2 * h, : 2 * h, : 2 * w, : 2 * w]
    return cut.reshape(h, 2, h, 2, w, 2, w, 2, *rest).mean((1, 3, 5, 7))


def _mean(planes: Array, flatten: bool) -> Array:
    """Return the mean over equal positions (flatten) or over all pairs (global average pool), of the trailing axes."""
    if not flatten:
        return planes.mean((0, 1, 2, 3))
    h, w = planes.shape[0], planes.shape[2]
    return jnp.einsum("hhww...->...", planes) / (h * w)


class _Angle(NamedTuple):
    """What a ReLU needs of a covariance: sqrt(v v'), cos and sin of the angle, and (pi - theta) / 2 pi."""

    scale: Array
    cos: Array
    sin: Array
    half: Array


def _angle(nngp: Array, v_x: Array, v_z: Array) -> _Angle:
    # The product of roots, and not the root of the product: one root for each position, not for each pair.
    scale = jnp.sqrt(v_x) * jnp.sqrt(v_z)
    cos = jnp.clip(nngp / jnp.where(scale > 0, scale, 1), -1, 1)
    sin = jnp.sqrt((1 - cos) * (1 + cos))
    return _Angle(scale, cos, sin, (math.pi - _arccos(cos)) / (2 * math.pi))


def _arccos(cos: Array) -> Array:
    """Return arccos on [-1, 1]: to 2e-8 in float32, to the last digit in float64."""
    if cos.dtype == jnp.float64:
        return jnp.arccos(cos)
    size = jnp.abs(cos)
    polynomial = jnp.full_like(size, ARCCOS[-1])
    for coefficient in ARCCOS[-2::-1]:
        polynomial = polynomial * size + coefficient
    angle = jnp.sqrt(1 - size) * polynomial
    return jnp.where(cos < 0, math.pi - angle, angle)


def _relu_values(nngp: Array, v_x: Array, v_z: Array) -> tuple[Array, _Angle]:
    angle = _angle(nngp, v_x, v_z)
    return angle.scale * (angle.sin / (2 * math.pi) + angle.half * angle.cos), angle


@jax.custom_vjp
def _relu_nngp(nngp: Array, v_x: Array, v_z: Array) -> Array:
    """Return the ReLU's nngp; v_x and v_z broadcast against it."""
    return _relu_values(nngp, v_x, v_z)[0]


def _relu_nngp_pull(saved: tuple[Array, Array, Array], bar: Array) -> tuple[Array, Array, Array]:
    nngp, v_x, v_z = saved
    angle = _angle(nngp, v_x, v_z)
    to_both = bar * angle.scale * angle.sin / (4 * math.pi)
    return bar * angle.half, _per_image(to_both, v_x), _per_image(to_both, v_z)


_relu_nngp.defvjp(lambda *args: (_relu_nngp(*args), args), _relu_nngp_pull)


@jax.custom_vjp
def _relu(nngp: Array, ntk: Array, v_x: Array, v_z: Array) -> tuple[Array, Array]:
    """Return the ReLU's nngp and ntk."""
    value, angle = _relu_values(nngp, v_x, v_z)
    return value, ntk * angle.half


def _relu_pull(saved: tuple[Array, Array, Array, Array], bar: tuple[Array, Array]) -> tuple[Array, Array, Array, Array]:
    """Pull cotangents back through the ReLU.

    With s = sqrt(v v'), h = (pi - theta) / 2 pi:

        dK'/dK = h           dK'/dv = s sin theta / (4 pi v)
        dT'/dT = h           dT'/dK = T / (2 pi s sin theta)      dT'/dv = -T cos theta / (4 pi v sin theta)

    The last two diverge at theta = 0, where they cancel: for x = z the three contributions of K, v and v' sum to zero.
    They are taken as zero where sin^2 theta is below what rounding leaves of it.
    """
    nngp, ntk, v_x, v_z = saved
    angle = _angle(nngp, v_x, v_z)
    least = 16 * jnp.finfo(nngp.dtype).eps
    square = angle.sin**2
    nngp_bar, ntk_bar = bar
    slope = jnp.where(square > least, jax.lax.rsqrt(jnp.maximum(square, least)), 0) * ntk_bar * ntk / (2 * math.pi)
    to_nngp = nngp_bar * angle.half + slope / jnp.where(angle.scale > 0, angle.scale, 1)
    to_both = nngp_bar * angle.scale * angle.sin / (4 * math.pi) - slope * angle.cos / 2
    return to_nngp, ntk_bar * angle.half, _per_image(to_both, v_x), _per_image(to_both, v_z)


_relu.defvjp(lambda *args: (_relu(*args), args), _relu_pull)


def _per_image(to_both: Array, variance: Array) -> Array:
    """Return the cotangent of a broadcast variance, from v dK'/dv + v dT'/dv summed over what it was broadcast to."""
    axes = tuple(i for i, side in enumerate(variance.shape) if side == 1 and to_both.shape[i] > 1)
    total = to_both.sum(axes, keepdims=True)
    return jnp.where(variance > 0, total / jnp.where(variance > 0, variance, 1), 0)
