"""The finite networks, one function each, and the table that names them.

| name | layers (conv is 3x3, SAME, then normalised, then ReLU or softplus) | width | norm |
|---|---|---|---|
| FC1, FC2, ... | hidden dense layers | 1024 | none |
| ConvVec1, ... | convs, flatten; no pooling | 1024 | none |
| ConvNet | conv, three of (conv, 2x2 average pool), flatten: KIP's | 1024 | none |
| ConvNet-D1 to D5 | that many of (conv, 2x2 average pool), flatten: DC's; `growth` widens each | 128 | instance |
| FRePo-D3, D4, D5 | that many of (norm, conv, ReLU, 2x2 average pool), no norm in the first; flatten | 128 | batch |
| Myrtle5, 7, 10 | as the kernel of that name; global average pooling | 1024 | none |
| LeNet | 5x5 convs and max pools, two hidden dense layers | 6 | none |
| AlexNet | convs 5, 5, 3, 3, 3, max pools after the 1st, 2nd and 5th; no hidden dense layer | 128 | none |
| VGG11 | eight convs, five max pools; no hidden dense layer | 64 | instance |
| ResNet10, ResNet18 | 3x3 stem without pool, four stages of one or two basic blocks | 64 | batch |
| WRN-16-2 | three stages of two pre-activated basic blocks, twice as wide as the stem | 16 | batch |
| DenseNet121 | 58 pre-activated dense blocks of growth width/2, 3x3 stem without pool | 64 | batch |
| MobileNet | the first version: 13 depthwise separable blocks, 3x3 stem without stride | 32 | batch |
| MobileNetV2 | 17 inverted residual blocks; no stride before the third stage, as is usual for 32 pixels | 32 | batch |
| ShuffleNetV2 | half of the usual channels: 16 shuffled blocks, 3x3 stem without stride or pool | 24 | batch |

Width is the first layer's; the others keep their ratio to it. Images are 28, 32 or 64 pixels wide, or of any size that
the pools allow. ConvNet-D, LeNet and VGG11 centre images in zeros where their pools need larger ones: LeNet, VGG11 and
ConvNet-D5 need 32. ConvNet-D1 and D2 are for images of 8 and 16 pixels. Each block of FRePo-D is twice
as wide as the one before, grey images get two pixels of zeros on each side, and batch normalisation forgets nine tenths
of its running statistics at an update.

References: Nguyen et al. 2021, section A (ConvNet, Myrtle); Zhao and Bilen 2021 (the ConvNet-Ds, and these sizes of
AlexNet, VGG11 and ResNet18); Zhou et al. 2022, public code, `Conv` (the FRePo-Ds); LeCun et al. 1998; Krizhevsky et
al. 2012; Simonyan and Zisserman 2015; He et al. 2016; Howard et al. 2017; Zagoruyko and Komodakis 2016; Huang et al.
2017; Sandler et al. 2018; Ma et al. 2018.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from kip.errors import ConfigError, did_you_mean
from kip.kernels.architecture import MYRTLE_BLOCKS
from kip.networks.layers import (
    Conv,
    Dense,
    Norm,
    Normalise,
    Style,
    average_pool,
    block,
    convolve,
    flatten,
    global_average,
    max_pool,
    preactivate,
    shuffle_channels,
)

FREPO_MOMENTUM = 0.1
"""The part of the running statistics that stays at an update of FRePo-D, as Flax counts it. The public code gives 0.1
to Flax; PyTorch's momentum of 0.1 would have been 0.9 here."""


def _fc(style: Style, width: int, x: Array, train: bool, *, depth: int) -> Array:
    x = flatten(x)
    for _ in range(depth):
        x = style.activate(Normalise(style.norm)(Dense(width, style)(x), train))
    return x


def _conv_vec(style: Style, width: int, x: Array, train: bool, *, depth: int) -> Array:
    for _ in range(depth):
        x = block(style, width, x, train)
    return flatten(x)


def _convnet(style: Style, width: int, x: Array, train: bool, *, depth: int, first: bool, growth: int = 1) -> Array:
    if first:
        x = block(style, width, x, train)
    for index in range(depth):
        x = average_pool(block(style, width * growth**index, x, train))
    return flatten(x)


def _frepo(style: Style, width: int, x: Array, train: bool, *, depth: int) -> Array:
    if x.shape[-1] == 1:
        x = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    for index in range(depth):
        x = Normalise(style.norm, FREPO_MOMENTUM)(x, train) if index else x
        x = average_pool(style.activate(Conv(width << index, style)(x)))
    return flatten(x)


def _myrtle(style: Style, width: int, x: Array, train: bool, *, depth: int) -> Array:
    x = block(style, width, x, train)
    for index, convs in enumerate(MYRTLE_BLOCKS[depth]):
        for _ in range(convs):
            x = block(style, width, x, train)
        x = average_pool(x) if index < 2 else x
    return global_average(x)


def _lenet(style: Style, width: int, x: Array, train: bool) -> Array:
    for features in (6, 16):
        x = max_pool(block(style, features * width // 6, x, train, size=5, padding="VALID"))
    x = flatten(x)
    for features in (120, 84):
        x = style.activate(Dense(features * width // 6, style)(x))
    return x


def _alexnet(style: Style, width: int, x: Array, train: bool) -> Array:
    for index, (size, ratio) in enumerate([(5, 1.0), (5, 1.5), (3, 2.0), (3, 1.5), (3, 1.5)]):
        x = block(style, round(width * ratio), x, train, size=size)
        x = max_pool(x) if index in (0, 1, 4) else x
    return flatten(x)


def _vgg11(style: Style, width: int, x: Array, train: bool) -> Array:
    for ratios in ((1,), (2,), (4, 4), (8, 8), (8, 8)):
        for ratio in ratios:
            x = block(style, width * ratio, x, train)
        x = max_pool(x)
    return flatten(x)


def _resnet(style: Style, width: int, x: Array, train: bool, *, blocks: int) -> Array:
    x = block(style, width, x, train)
    for stage in range(4):
        for index in range(blocks):
            features, stride = width << stage, 2 if stage and not index else 1
            inner = block(style, features, x, train, stride=stride)
            residual = convolve(style, features, inner, train)
            if x.shape != residual.shape:
                x = convolve(style, features, x, train, size=1, stride=stride)
            x = style.activate(x + residual)
    return global_average(x)


def _wide_resnet(style: Style, width: int, x: Array, train: bool) -> Array:
    x = Conv(width, style)(x)
    for ratio, strides in ((2, (1, 1)), (4, (2, 1)), (8, (2, 1))):
        for stride in strides:
            features, active = width * ratio, preactivate(style, x, train)
            inner = block(style, features, active, train, stride=stride)
            if x.shape[-1] != features:
                x = Conv(features, style, size=1, stride=stride)(active)
            x = x + Conv(features, style)(inner)
    return global_average(preactivate(style, x, train))


def _densenet(style: Style, width: int, x: Array, train: bool) -> Array:
    growth = max(1, width // 2)
    x = Conv(width, style)(x)
    for stage, blocks in enumerate((6, 12, 24, 16)):
        if stage:
            x = average_pool(Conv(x.shape[-1] // 2, style, size=1)(preactivate(style, x, train)))
        for _ in range(blocks):
            narrow = block(style, 4 * growth, preactivate(style, x, train), train, size=1)
            x = jnp.concatenate([x, Conv(growth, style)(narrow)], -1)
    return global_average(preactivate(style, x, train))


def _mobilenet(style: Style, width: int, x: Array, train: bool) -> Array:
    x = block(style, width, x, train)
    for ratio, stride in [(2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *[(16, 1)] * 5, (32, 2), (32, 1)]:
        x = block(style, x.shape[-1], x, train, stride=stride, depthwise=True)
        x = block(style, width * ratio, x, train, size=1)
    return global_average(x)


def _mobilenet_v2(style: Style, width: int, x: Array, train: bool) -> Array:
    def clip_block(features: int, x: Array, **options: Any) -> Array:
        return nn.relu6(convolve(style, features, x, train, **options))

    def channels(usual: int) -> int:
        return max(1, usual * width // 32)

    x = clip_block(width, x)
    stages = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expansion, usual, blocks, first_stride in stages:
        for index in range(blocks):
            inner = x if expansion == 1 else clip_block(expansion * x.shape[-1], x, size=1)
            inner = clip_block(inner.shape[-1], inner, stride=first_stride if not index else 1, depthwise=True)
            residual = convolve(style, channels(usual), inner, train, size=1)
            x = x + residual if index else residual
    return global_average(clip_block(channels(1280), x, size=1))


def _shufflenet_v2(style: Style, width: int, x: Array, train: bool) -> Array:
    def transform(features: int, x: Array, stride: int, *, narrow_first: bool = True) -> Array:
        x = block(style, features, x, train, size=1) if narrow_first else x
        x = convolve(style, x.shape[-1], x, train, stride=stride, depthwise=True)
        return block(style, features, x, train, size=1)

    x = block(style, width, x, train)
    for ratio, blocks in ((2, 4), (4, 8), (8, 4)):
        half = width * ratio // 2
        x = shuffle_channels(jnp.concatenate([transform(half, x, 2, narrow_first=False), transform(half, x, 2)], -1))
        for _ in range(blocks - 1):
            kept, changed = jnp.split(x, 2, -1)
            x = shuffle_channels(jnp.concatenate([kept, transform(half, changed, 1)], -1))
    return global_average(block(style, max(1, 1024 * width // 24), x, train, size=1))


class Builder(NamedTuple):
    """One architecture of the table."""

    body: Callable[..., Array]
    """The function of (style, width, x, train) that returns the features, (N, d)."""
    width: int
    """The number of channels of the first layer."""
    norm: Norm = "none"
    """The normalisation of the layers."""
    b_std: float = 0.0
    """The standard deviation of the initial biases."""
    halvings: int = 0
    """The number of times that the image is halved before its last normalised layer."""
    least: int = 1
    """The shortest side that the pools allow, in pixels."""
    padded: int = 0
    """The side up to which smaller images are centred in zeros."""


def _convnet_d(depth: int) -> Builder:
    body = functools.partial(_convnet, depth=depth, first=False)
    return Builder(body, 128, "instance", halvings=depth - 1, padded=2**depth)


def _frepo_d(depth: int) -> Builder:
    return Builder(functools.partial(_frepo, depth=depth), 128, "batch", halvings=depth - 1, padded=2**depth)


NETWORKS: dict[str, Builder] = {
    "ConvNet": Builder(functools.partial(_convnet, depth=3, first=True), 1024, b_std=0.1, halvings=2, least=8),
    **{f"ConvNet-D{depth}": _convnet_d(depth) for depth in range(1, 6)},
    "FRePo-D3": _frepo_d(3),
    "FRePo-D4": _frepo_d(4),
    "FRePo-D5": _frepo_d(5),
    **{
        f"Myrtle{depth}": Builder(functools.partial(_myrtle, depth=depth), 1024, b_std=0.1, halvings=2, least=4)
        for depth in MYRTLE_BLOCKS
    },
    "LeNet": Builder(_lenet, 6, halvings=1, padded=32),
    "AlexNet": Builder(_alexnet, 128, halvings=2, least=8),
    "VGG11": Builder(_vgg11, 64, "instance", halvings=4, padded=32),
    "ResNet10": Builder(functools.partial(_resnet, blocks=1), 64, "batch", halvings=3),
    "ResNet18": Builder(functools.partial(_resnet, blocks=2), 64, "batch", halvings=3),
    "WRN-16-2": Builder(_wide_resnet, 16, "batch", halvings=2),
    "DenseNet121": Builder(_densenet, 64, "batch", halvings=3, least=8),
    "MobileNet": Builder(_mobilenet, 32, "batch", halvings=4),
    "MobileNetV2": Builder(_mobilenet_v2, 32, "batch", halvings=3),
    "ShuffleNetV2": Builder(_shufflenet_v2, 24, "batch", halvings=3),
}
"""The named architectures; `FC` and `ConvVec`, followed by a depth, are made as they are asked for."""
OF_ANY_DEPTH = {"FC": _fc, "ConvVec": _conv_vec}


def builder_of(name: str) -> Builder:
    """Return a name's builder.

    Raises:
        ConfigError: if there is none.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    if (match := re.fullmatch(r"(FC|ConvVec)([1-9]\d?)", name)) is None:
        raise ConfigError(
            "network",
            got=repr(name),
            expected=f"FC1, ConvVec3 (or another depth), {', '.join(NETWORKS)}, or FILE.py:NAME of your own",
            remedy=did_you_mean(name, [*NETWORKS, "FC1", "ConvVec3"]).strip() or None,
        )
    return Builder(functools.partial(OF_ANY_DEPTH[match[1]], depth=int(match[2])), 1024, b_std=0.1)
