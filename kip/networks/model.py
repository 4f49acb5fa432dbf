"""The finite networks, in one table of builders, and one way to use them all.

    model = network("ConvNet", 10, width=128)
    variables = model.init(jax.random.key(0), (28, 28, 1))
    logits, features, variables = model.apply(variables, images, train=True)

| name | layers (conv is 3x3, SAME, then normalised, then ReLU) | width | norm |
|---|---|---|---|
| FC1, FC2, ... | hidden dense layers | 1024 | none |
| ConvVec1, ... | convs, flatten; no pooling | 1024 | none |
| ConvNet | conv, three of (conv, 2x2 average pool), flatten: KIP's | 1024 | none |
| ConvNet-D3, D4, D5 | that many of (conv, 2x2 average pool), flatten: DC's; `growth` widens each | 128 | instance |
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

Width is the first layer's; the others keep their ratio to it. Images are 28, 32 or 64 pixels wide; others too, where
the pools leave something. ConvNet-D, LeNet and VGG11 centre images in zeros where their pools need larger ones: LeNet
and VGG11 want 32, ConvNet-D5 too.

References: Nguyen et al. 2021, section A (ConvNet, Myrtle); Zhao and Bilen 2021 (the ConvNet-Ds, and these sizes of
AlexNet, VGG11 and ResNet18); LeCun et al. 1998; Krizhevsky et al. 2012; Simonyan and Zisserman 2015; He et al. 2016;
Howard et al. 2017; Zagoruyko and Komodakis 2016; Huang et al. 2017; Sandler et al. 2018; Ma et al. 2018.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from kip.config import label, value
from kip.errors import ConfigError, ShapeError, did_you_mean
from kip.kernels.architecture import MYRTLE_BLOCKS
from kip.networks.layers import (
    Conv,
    Dense,
    Norm,
    Normalise,
    Parameterization,
    Style,
    average_pool,
    block,
    flatten,
    global_average,
    max_pool,
    pad_to,
    preactivated,
    projected,
    shuffled,
)

Variables = dict[str, Any]
"""A network's parameters, under `params`, and running statistics of batch normalisation, under `batch_stats`."""
READOUT = "readout"
"""The name of every network's last dense layer in its parameters."""


def _fc(style: Style, width: int, x: Array, train: bool, *, depth: int) -> Array:
    x = flatten(x)
    for _ in range(depth):
        x = nn.relu(Normalise(style.norm)(Dense(width, style)(x), train))
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
        x = nn.relu(Dense(features * width // 6, style)(x))
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
            residual = projected(style, features, inner, train)
            if x.shape != residual.shape:
                x = projected(style, features, x, train, size=1, stride=stride)
            x = nn.relu(x + residual)
    return global_average(x)


def _wide_resnet(style: Style, width: int, x: Array, train: bool) -> Array:
    x = Conv(width, style)(x)
    for ratio, strides in ((2, (1, 1)), (4, (2, 1)), (8, (2, 1))):
        for stride in strides:
            features, active = width * ratio, preactivated(style, x, train)
            inner = block(style, features, active, train, stride=stride)
            if x.shape[-1] != features:
                x = Conv(features, style, size=1, stride=stride)(active)
            x = x + Conv(features, style)(inner)
    return global_average(preactivated(style, x, train))


def _densenet(style: Style, width: int, x: Array, train: bool) -> Array:
    growth = max(1, width // 2)
    x = Conv(width, style)(x)
    for stage, blocks in enumerate((6, 12, 24, 16)):
        if stage:
            x = average_pool(Conv(x.shape[-1] // 2, style, size=1)(preactivated(style, x, train)))
        for _ in range(blocks):
            narrow = block(style, 4 * growth, preactivated(style, x, train), train, size=1)
            x = jnp.concatenate([x, Conv(growth, style)(narrow)], -1)
    return global_average(preactivated(style, x, train))


def _mobilenet(style: Style, width: int, x: Array, train: bool) -> Array:
    x = block(style, width, x, train)
    for ratio, stride in [(2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *[(16, 1)] * 5, (32, 2), (32, 1)]:
        x = block(style, x.shape[-1], x, train, stride=stride, depthwise=True)
        x = block(style, width * ratio, x, train, size=1)
    return global_average(x)


def _mobilenet_v2(style: Style, width: int, x: Array, train: bool) -> Array:
    def clipped(features: int, x: Array, **options: Any) -> Array:
        return nn.relu6(projected(style, features, x, train, **options))

    def channels(usual: int) -> int:
        return max(1, usual * width // 32)

    x = clipped(width, x)
    stages = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expansion, usual, blocks, first_stride in stages:
        for index in range(blocks):
            inner = x if expansion == 1 else clipped(expansion * x.shape[-1], x, size=1)
            inner = clipped(inner.shape[-1], inner, stride=first_stride if not index else 1, depthwise=True)
            residual = projected(style, channels(usual), inner, train, size=1)
            x = x + residual if index else residual
    return global_average(clipped(channels(1280), x, size=1))


def _shufflenet_v2(style: Style, width: int, x: Array, train: bool) -> Array:
    def moved(features: int, x: Array, stride: int, *, narrow_first: bool = True) -> Array:
        x = block(style, features, x, train, size=1) if narrow_first else x
        x = projected(style, x.shape[-1], x, train, stride=stride, depthwise=True)
        return block(style, features, x, train, size=1)

    x = block(style, width, x, train)
    for ratio, blocks in ((2, 4), (4, 8), (8, 4)):
        half = width * ratio // 2
        x = shuffled(jnp.concatenate([moved(half, x, 2, narrow_first=False), moved(half, x, 2)], -1))
        for _ in range(blocks - 1):
            kept, changed = jnp.split(x, 2, -1)
            x = shuffled(jnp.concatenate([kept, moved(half, changed, 1)], -1))
    return global_average(block(style, max(1, 1024 * width // 24), x, train, size=1))


class _Builder(NamedTuple):
    """One architecture of the table."""

    body: Callable[..., Array]
    """The function of (style, width, x, train) that returns the features, (N, d)."""
    width: int
    norm: Norm = "none"
    b_std: float = 0.0
    halvings: int = 0
    """How often the image is halved before its last normalised layer."""
    least: int = 1
    """The shortest side that the pools allow, in pixels."""
    padded: int = 0
    """The side up to which smaller images are centred in zeros."""


def _convnet_d(depth: int) -> _Builder:
    body = functools.partial(_convnet, depth=depth, first=False)
    return _Builder(body, 128, "instance", halvings=depth - 1, padded=2**depth)


NETWORKS: dict[str, _Builder] = {
    "ConvNet": _Builder(functools.partial(_convnet, depth=3, first=True), 1024, b_std=0.1, halvings=2, least=8),
    "ConvNet-D3": _convnet_d(3),
    "ConvNet-D4": _convnet_d(4),
    "ConvNet-D5": _convnet_d(5),
    **{
        f"Myrtle{depth}": _Builder(functools.partial(_myrtle, depth=depth), 1024, b_std=0.1, halvings=2, least=4)
        for depth in MYRTLE_BLOCKS
    },
    "LeNet": _Builder(_lenet, 6, halvings=1, padded=32),
    "AlexNet": _Builder(_alexnet, 128, halvings=2, least=8),
    "VGG11": _Builder(_vgg11, 64, "instance", halvings=4, padded=32),
    "ResNet10": _Builder(functools.partial(_resnet, blocks=1), 64, "batch", halvings=3),
    "ResNet18": _Builder(functools.partial(_resnet, blocks=2), 64, "batch", halvings=3),
    "WRN-16-2": _Builder(_wide_resnet, 16, "batch", halvings=2),
    "DenseNet121": _Builder(_densenet, 64, "batch", halvings=3, least=8),
    "MobileNet": _Builder(_mobilenet, 32, "batch", halvings=4),
    "MobileNetV2": _Builder(_mobilenet_v2, 32, "batch", halvings=3),
    "ShuffleNetV2": _Builder(_shufflenet_v2, 24, "batch", halvings=3),
}
"""The named architectures; `FC` and `ConvVec`, followed by a depth, are made as they are asked for."""
OF_ANY_DEPTH = {"FC": _fc, "ConvVec": _conv_vec}


def _builder(name: str) -> _Builder:
    """Return a name's builder.

    Raises:
        ConfigError: if there is none.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    if (match := re.fullmatch(r"(FC|ConvVec)([1-9]\d?)", name)) is None:
        raise ConfigError(
            "network", got=repr(name), expected="FC1, ConvVec3 (or another depth), " + ", ".join(NETWORKS),
            remedy=did_you_mean(name, [*NETWORKS, "FC1", "ConvVec3"]).strip() or None,
        )  # fmt: skip
    return _Builder(functools.partial(OF_ANY_DEPTH[match[1]], depth=int(match[2])), 1024, b_std=0.1)


@value
class Network:
    """A finite network by name, with what can be varied; None stands for the table's value."""

    name: str = "ConvNet"
    """The network: a row of the table in `kip.networks.model`."""
    width: Annotated[int, Field(ge=1)] | None = None
    """The number of channels of the first layer."""
    norm: Norm | None = None
    """The normalisation after each convolution (FC: after each hidden layer)."""
    parameterization: Parameterization = "standard"
    """Where the scale of the weights is: in their initial values (`standard`), or in the forward pass (`ntk`)."""
    w_std: Annotated[float, Field(gt=0)] = math.sqrt(2.0)
    """The standard deviation of the initial weights, before the 1/sqrt(fan-in)."""
    b_std: Annotated[float, Field(ge=0)] | None = None
    """The standard deviation of the initial biases. None means 0.1 for the networks that have a kernel of their name,
    and 0 for the rest."""
    growth: Annotated[int, Field(ge=1)] = 1
    """The ratio of each block's width to that of the block before, for ConvNet-D only. FRePo takes 2."""

    def __post_init__(self) -> None:
        _builder(self.name)
        if self.growth != 1 and not self.name.startswith("ConvNet-D"):
            raise ConfigError("growth", got=f"{self.growth} with {self.name}", expected="1, or a ConvNet-D")
        if self.norm == "instance" and self.name.startswith("FC"):
            raise ConfigError("norm", got=f"'instance' with {self.name}", expected="none, layer or batch")

    @property
    def batch_normalised(self) -> bool:
        """Whether it has batch normalisation."""
        return (self.norm or _builder(self.name).norm) == "batch"

    def largest_layer(self, height: int, width: int) -> int:
        """Return about how many numbers the largest layer holds for one image of that size."""
        builder = _builder(self.name)
        channels = self.width or builder.width
        positions = 1 if self.name.startswith("FC") else max(height, builder.padded) * max(width, builder.padded)
        return max(channels * positions, height * width)

    @property
    def label(self) -> str:
        """A short name for tables: the name and what differs from its defaults, such as `ConvNet width=128`."""
        return label(self)


class Outputs(NamedTuple):
    """What a network gives for a batch."""

    logits: Array
    """The logits, (N, c)."""
    features: Array
    """What the last dense layer sees, (N, d)."""
    variables: Variables
    """The variables, running statistics moved if `train`; else those that were given."""


class _Classifier(nn.Module):
    """A body of the table, and the last dense layer."""

    body: Callable[..., Array]
    style: Style
    width: int
    padded: int
    num_outputs: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
        """Return logits and features."""
        features = self.body(self.style, self.width, pad_to(x, self.padded), train)
        return Dense(self.num_outputs, self.style, name=READOUT)(features), features


@dataclasses.dataclass(frozen=True)
class Model:
    """A network for a number of outputs. Pure: its variables are the caller's; it may be static in jit."""

    network: Network
    num_outputs: int

    def init(self, key: Array, image_shape: tuple[int, int, int]) -> Variables:
        """Draw the variables for images (H, W, C).

        Raises:
            ShapeError: if the pools would leave nothing of the images.
        """
        self.check_images(*image_shape[:2])
        images = jnp.zeros((1, *image_shape), jnp.result_type(float))
        return dict(self._module.init(key, images, False, mutable=["params", "batch_stats"]))

    def apply(self, variables: Variables, images: Array, *, train: bool = False) -> Outputs:
        """Return logits, features and variables for images (N, H, W, C).

        Args:
            variables: what `init` or an earlier `apply` returned.
            images: preprocessed.
            train: normalise by the batch's statistics and move the running ones; matters for batch normalisation only.
                To test by batch statistics, pass True and drop the variables.
        """
        module: Any = self._module
        if not train or "batch_stats" not in variables:
            logits, features = module.apply(variables, images, train)
            return Outputs(logits, features, variables)
        (logits, features), moved = module.apply(variables, images, True, mutable=["batch_stats"])
        return Outputs(logits, features, {**variables, **moved})

    def moments(self, variables: Variables, images: Array, *, train: bool = False) -> dict[str, Any]:
        """Return the batch mean and variance of the input of each batch normalisation, nested by layer.

        The tree has `mean` and `var` where `variables["batch_stats"]` has a layer's running `mean` and `var` under
        `batch`; it is empty for networks without batch normalisation.
        """
        module: Any = self._module
        _, collections = module.apply(variables, images, train, mutable=["moments", "batch_stats"])
        return dict(collections.get("moments", {}))

    def observed(self, variables: Variables, images: Array) -> tuple[Outputs, dict[str, Array]]:
        """Return the outputs in test mode, and what comes into each convolution and batch normalisation, by its name.

        Names are `Conv_0`, `Conv_1`, ... and `Normalise_0`, ..., numbered in the order in which images pass them.
        """
        module: Any = self._module
        (logits, features), collections = module.apply(variables, images, False, mutable=["inputs"])
        seen = {name: layer["x"] for name, layer in collections.get("inputs", {}).items()}
        return Outputs(logits, features, variables), seen

    def check_images(self, height: int, width: int) -> None:
        """Refuse images of which the pools, or an instance normalisation of single pixels, would leave nothing.

        Raises:
            ShapeError: if a side is too short.
        """
        builder = _builder(self.network.name)
        least = builder.least
        if self._style.norm == "instance":
            least = max(least, 2**builder.halvings + 1)
        if max(min(height, width), builder.padded) < least:
            raise ShapeError(
                f"images are too small for {self.network.label}",
                got=f"{height}x{width} pixels",
                expected=f"at least {least}x{least}",
                remedy="Use a network with fewer poolings, such as FC1 or ConvVec3.",
            )

    @property
    def _style(self) -> Style:
        config, builder = self.network, _builder(self.network.name)
        b_std = builder.b_std if config.b_std is None else config.b_std
        return Style(config.norm or builder.norm, config.parameterization, config.w_std, b_std)

    @property
    def _module(self) -> _Classifier:
        config, builder = self.network, _builder(self.network.name)
        body = builder.body if config.growth == 1 else functools.partial(builder.body, growth=config.growth)
        return _Classifier(body, self._style, config.width or builder.width, builder.padded, self.num_outputs)


def network(name: str | Network, num_outputs: int, **options: Any) -> Model:
    """Return the model of a name (with the options of `Network`) or of a `Network`.

    Args:
        name: a row of the table above, or a configuration.
        num_outputs: classes, or dimensions of another target.
        options: width, norm, ...; only with a name.

    Raises:
        ConfigError: if there is no such network or option.
    """
    config = Network(name, **options) if isinstance(name, str) else dataclasses.replace(name, **options)
    return Model(config, num_outputs)


CONVNET = Network("ConvNet-D3", w_std=3**-0.5)
"""The network of the literature on small sets, with the deviation of weights that PyTorch draws."""
