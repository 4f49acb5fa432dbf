"""Layers that the networks share: dense and convolution in either parameterisation, normalisation, pooling.

Standard parameterisation keeps the scale in the initial weights, NTK parameterisation in the forward pass; with
W ~ N(0, 1) drawn alike, both are the same function at the start:

    standard   y = W' x + b',                      W' = (w_std / sqrt(fan_in)) W,   b' = b_std b   are learned
    ntk        y = (w_std / sqrt(fan_in)) W x + b_std b,      W, b                                 are learned
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from kip.placement import platform

Norm = Literal["none", "layer", "instance", "batch"]
Parameterization = Literal["standard", "ntk"]
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


FEW_CHANNELS = 4
"""The number of channels up to which a convolution is a product of patches on CPUs."""


class Conv(nn.Module):
    """A convolution: (N, H, W, C) to (N, H', W', features); depthwise, each channel by itself (features = C).

    With the collection `inputs` mutable, it stores its input, as `Normalise` does.
    """

    features: int
    style: Style
    size: int = 3
    stride: int = 1
    padding: Literal["SAME", "VALID"] = "SAME"
    depthwise: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Return W * x + b."""
        keep_input(self, x)
        groups = x.shape[-1] if self.depthwise else 1
        per_group = x.shape[-1] // groups
        shape = (self.size, self.size, per_group, self.features)
        kernel, bias = self.style.weights(self, shape, self.size**2 * per_group)
        if groups == self.stride == 1 and per_group <= FEW_CHANNELS and platform() == "cpu":
            return product_of_patches(x, kernel, self.padding) + bias
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        return y + bias


def product_of_patches(x: Array, kernel: Array, padding: Literal["SAME", "VALID"]) -> Array:
    """Return the convolution of x (N, H, W, C) with a kernel (k, k, C, f), k odd, as one matrix product.

    For few channels XLA's convolutions are slow on CPUs: the forward pass of ConvNet-D3 of width 16 takes 0.13 ms for
    an image of 28x28 by them and 0.06 ms by this, on two cores; at width 128 the first layer matters little.
    """
    size = len(kernel)
    if padding == "SAME":
        x = jnp.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    patches = [x[:, row : row + height, column : column + width] for row in range(size) for column in range(size)]
    return jnp.concatenate(patches, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


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
