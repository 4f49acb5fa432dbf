"""Layers that the networks share: dense and convolution in either parameterisation, normalisation, pooling.

Standard parameterisation keeps the scale in the initial weights, NTK parameterisation in the forward pass; with
W ~ N(0, 1) drawn alike, both are the same function at the start:

    standard   y = W' x + b',                      W' = (w_std / sqrt(fan_in)) W,   b' = b_std b   are learned
    ntk        y = (w_std / sqrt(fan_in)) W x + b_std b,      W, b                                 are learned
"""

from __future__ import annotations

import functools
import math
from importlib.metadata import version
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from kip.placement import platform

Norm = Literal["none", "layer", "instance", "batch"]
Parameterization = Literal["standard", "ntk"]
Padding = Literal["SAME", "VALID"]
Activation = Literal["relu", "softplus"]
"""The nonlinearity: max(0, x), or the smooth softplus log(1 + e^{60 x}) / 60, which is at most 0.012 above it."""
SHARPNESS = 60.0
"""The factor of x in softplus, by which the public code of RCIG replaces ReLU."""
EPSILON = 1e-5
"""The number that is added to every variance."""
MOMENTUM = 0.9
"""The momentum of batch normalisation's running statistics, as Flax counts it: the part of the old value that stays."""


class Style(NamedTuple):
    """The style of the layers of one network: normalisation, parameterisation, initial deviations, nonlinearity."""

    norm: Norm
    parameterization: Parameterization
    w_std: float
    b_std: float
    activation: Activation = "relu"
    plain: bool = False
    """True if convolutions are XLA's alone on CPUs too, with the derivatives that JAX gives them."""

    def activate(self, x: Array) -> Array:
        """Return the nonlinearity of x."""
        return nn.relu(x) if self.activation == "relu" else nn.softplus(SHARPNESS * x) / SHARPNESS

    def weights(self, module: nn.Module, shape: tuple[int, ...], fan_in: int) -> tuple[Array, Array]:
        """Return the kernel of `shape` and the bias (shape[-1],) as the forward pass uses them."""
        dtype = jnp.result_type(float)
        scales = {"kernel": self.w_std / math.sqrt(fan_in), "bias": self.b_std}
        shapes = {"kernel": shape, "bias": shape[-1:]}

        def make(name: str) -> Array:
            in_init = scales[name] if self.parameterization == "standard" else 1.0
            drawn = module.param(name, nn.initializers.normal(in_init), shapes[name], dtype)
            return drawn * (scales[name] / in_init) if self.parameterization == "ntk" else drawn

        return make("kernel"), make("bias")


class Dense(nn.Module):
    """A dense layer: (N, d) to (N, features)."""

    features: int
    style: Style

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return W x + b."""
        kernel, bias = self.style.weights(self, (x.shape[-1], self.features), x.shape[-1])
        return x @ kernel + bias


COMPILES_PRODUCTS = tuple(map(int, version("jaxlib").split(".")[:2])) >= (0, 10)
"""True if this jaxlib is known to compile `convolution` right. 0.6.2 does not: gradients of its gradients for kernels
are wrong once they are compiled, and right operation by operation."""


class Conv(nn.Module):
    """A convolution: (N, H, W, C) to (N, H', W', features); depthwise, each channel by itself (features = C).

    With the collection `inputs` mutable, it stores its input, as `Normalise` does.
    """

    features: int
    style: Style
    size: int = 3
    stride: int = 1
    padding: Padding = "SAME"
    depthwise: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return W * x + b."""
        keep_input(self, x)
        groups = x.shape[-1] if self.depthwise else 1
        per_group = x.shape[-1] // groups
        shape = (self.size, self.size, per_group, self.features)
        kernel, bias = self.style.weights(self, shape, self.size**2 * per_group)
        if COMPILES_PRODUCTS and groups == self.stride == 1 and not self.style.plain and platform() == "cpu":
            return convolution(x, kernel, self.padding) + bias
        return plain_convolution(x, kernel, self.padding, self.stride, groups) + bias


def plain_convolution(x: Array, kernel: Array, padding: Padding, stride: int = 1, groups: int = 1) -> Array:
    """Return the convolution of x (N, H, W, C) with a kernel (k, k, C / groups, f) as XLA makes it."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def convolution(x: Array, kernel: Array, padding: Padding) -> Array:
    """Return the convolution of x (N, H, W, C) with a kernel (k, k, C, f), k odd, for CPUs.

    The value and the derivative with respect to x are XLA's convolutions. The derivative with respect to the kernel is
    that of matrix products: as a convolution, whose window is the whole image, it runs at a quarter to a half of the
    forward pass's rate on a core. Sums are taken in another order, so that gradients differ from XLA's by rounding. It
    may be differentiated again in either mode, and vectorised, since the rule is made of such
    convolutions and products.
    """
    return plain_convolution(x, kernel, padding)


def _tangent(padding: Padding, primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Any]:
    (x, kernel), (dx, dkernel) = primals, tangents
    y = convolution(x, kernel, padding)
    parts = []
    if not isinstance(dx, SymbolicZero):
        parts.append(convolution(dx, kernel, padding))
    if not isinstance(dkernel, SymbolicZero):
        parts.append(products(x, dkernel, padding))
    return y, sum(parts[1:], parts[0]) if parts else jnp.zeros_like(y)


convolution.defjvp(_tangent, symbolic_zeros=True)


FEW_CHANNELS = 4
"""Channels up to which the products of a convolution are one product of patches."""


def products(x: Array, kernel: Array, padding: Padding) -> Array:
    """Return the convolution of x (N, H, W, C) with a kernel (k, k, C, f), k odd, as matrix products."""
    return (product_of_patches if x.shape[-1] <= FEW_CHANNELS else product_of_strips)(x, kernel, padding)


def product_of_patches(x: Array, kernel: Array, padding: Padding) -> Array:
    """Return `products` as one product of the kernel (f, k k C) with all patches (k k C, N H W)."""
    size, planes = len(kernel), jnp.moveaxis(x, -1, 0)
    rows = [shift(planes, 2, place, size, padding) for place in range(size)]
    views = [shift(row, 3, place, size, padding) for row in rows for place in range(size)]
    patches = jnp.concatenate([view.reshape(len(planes), -1) for view in views])
    y = jax.lax.dot_general(kernel.reshape(len(patches), -1), patches, (((0,), (0,)), ((), ())))
    return jnp.moveaxis(y.reshape(-1, *views[0].shape[1:]), 0, -1)


def product_of_strips(x: Array, kernel: Array, padding: Padding) -> Array:
    """Return `products` as one product of the columns of the patches (N H W, k C) with the kernel (k C, k f).

    Its results for the k rows of the kernel, moved to their places, add up. The derivative with respect to the kernel
    is one product too, of k copies of x with k copies of the output's cotangent; patches would be k^2 copies of x.
    """
    size, _, channels, features = kernel.shape
    columns = jnp.concatenate([shift(x, 2, place, size, padding) for place in range(size)], axis=-1)
    matrix = kernel.transpose(1, 2, 0, 3).reshape(size * channels, size * features)
    product = (columns.reshape(-1, size * channels) @ matrix).reshape(*columns.shape[:3], -1)
    rows = jax.lax.split(product, [features] * size, axis=3)
    parts = [shift(row, 1, place, size, padding) for place, row in enumerate(rows)]
    return sum(parts[1:], parts[0])


def shift(x: Array, axis: int, place: int, size: int, padding: Padding) -> Array:
    """Return what the place 0..k-1 of a kernel of `size` k sees along one axis of x; zeros are outside with `SAME`."""
    around = size // 2 if padding == "SAME" else 0
    sides = [(0, 0, 0)] * x.ndim
    sides[axis] = (around - place, around - (size - 1 - place), 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), sides)


class Normalise(nn.Module):
    """A normalisation with a learned scale and offset for each channel, of (N, H, W, C) or (N, d).

    `layer`: over all of an image's values. `instance`: over each channel's positions. `batch`: over the batch in
    training, by running statistics (collection `batch_stats`) else. For methods that match batch statistics, `batch`
    stores the mean and the variance (1/n) of its input over the batch where the collection `moments` is mutable, in
    either mode, and the input itself where the collection `inputs` is. `momentum` is the part of the old running
    statistics that stays at an update.
    """

    norm: Norm
    momentum: float = MOMENTUM

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Return the normalised x; `train` has an effect on `batch` only."""
        dtype: Any = jnp.result_type(float)
        if self.norm == "layer":
            return nn.GroupNorm(num_groups=1, epsilon=EPSILON, param_dtype=dtype)(x)
        if self.norm == "instance":
            return nn.GroupNorm(num_groups=None, group_size=1, epsilon=EPSILON, param_dtype=dtype)(x)
        if self.norm == "batch":
            keep_input(self, x)
            axes = tuple(range(x.ndim - 1))
            for name, moment in (("mean", jnp.mean(x, axes)), ("var", jnp.var(x, axes))):
                self.sow("moments", name, moment, init_fn=lambda: jnp.zeros(()), reduce_fn=lambda _, new: new)
            return nn.BatchNorm(
                use_running_average=not train, momentum=self.momentum, epsilon=EPSILON, param_dtype=dtype, name="batch"
            )(x)
        return x


def keep_input(module: nn.Module, x: Array) -> None:
    """Store the input of a layer, where the caller has made the collection `inputs` mutable."""
    module.sow("inputs", "x", x, init_fn=lambda: jnp.zeros(()), reduce_fn=lambda _, new: new)


def block(style: Style, features: int, x: Array, train: bool, **options: Any) -> Array:
    """Return activation(normalise(conv(x))); `options` are those of `Conv`."""
    return style.activate(convolve(style, features, x, train, **options))


def convolve(style: Style, features: int, x: Array, train: bool, **options: Any) -> Array:
    """Return normalise(conv(x)); `options` are those of `Conv`."""
    return Normalise(style.norm)(Conv(features, style, **options)(x), train)


def preactivate(style: Style, x: Array, train: bool) -> Array:
    """Return activation(normalise(x)), which comes before a convolution in later residual networks."""
    return style.activate(Normalise(style.norm)(x, train))


def shuffle_channels(x: Array) -> Array:
    """Return the channels of both halves in turn, so that the next halves hold some of each."""
    return x.reshape(*x.shape[:-1], 2, -1).swapaxes(-1, -2).reshape(x.shape)


def average_pool(x: Array) -> Array:
    """Halve the image by means of 2x2; a last odd row or column is left out, as the infinite networks do."""
    return nn.avg_pool(x, (2, 2), strides=(2, 2))


def max_pool(x: Array) -> Array:
    """Halve the image by maxima of 2x2; a last odd row or column is left out."""
    return nn.max_pool(x, (2, 2), strides=(2, 2))


def flatten(x: Array) -> Array:
    """Return (N, H W C)."""
    return x.reshape(len(x), -1)


def global_average(x: Array) -> Array:
    """Return the mean over positions, (N, C)."""
    return x.mean((1, 2))


def pad_to(x: Array, side: int) -> Array:
    """Centre smaller images in zeros, to (N, side, side, C) at least."""
    pads = [(max(0, side - length) // 2, (max(0, side - length) + 1) // 2) for length in x.shape[1:3]]
    return jnp.pad(x, ((0, 0), *pads, (0, 0)))
