"""One way to use all finite networks: by name, as a configuration and as a model.

    model = network("ConvNet", 10, width=128)
    variables = model.init(jax.random.key(0), (28, 28, 1))
    logits, features, variables = model.apply(variables, images, train=True)

`kip.networks.architectures` has their table.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field, SerializerFunctionWrapHandler, ValidationInfo, model_serializer, model_validator

from kip.config import label, value
from kip.errors import ConfigError, ShapeError
from kip.kernels import permission
from kip.networks import own
from kip.networks.architectures import Builder, builder_of
from kip.networks.layers import Activation, Dense, Norm, Parameterization, Style, flatten, pad_to
from kip.placement import platform

Variables = dict[str, Any]
"""A network's parameters, under `params`, and running statistics of batch normalisation, under `batch_stats`."""
READOUT = "readout"
"""The name of every network's last dense layer in its parameters."""
CACHED = 2**19
"""The numbers in the largest layer of a part of a batch on a CPU: 2 MiB of float32 stay in its cache. On a core,
ConvNet-D3 of width 32 takes 111 ms for the loss of 100 images of 32x32 and its gradient, and 84 ms in parts of 20."""
OWN_CHANNELS = 64
"""The channels that are assumed of a network of the user's own at full resolution."""
MOST_PIECES = 8
"""The largest number of parts of a batch, as each is compiled by itself."""


@value
class Network:
    """A finite network by name, with its options; None stands for the table's value."""

    name: str = "ConvNet"
    """The network: a row of the table in `kip.networks.architectures`, or FILE.py:NAME for a Flax module of your own
    (`kip.networks.own`)."""
    width: Annotated[int, Field(ge=1)] | None = None
    """The number of channels of the first layer. None means the table's."""
    norm: Norm | None = None
    """The normalisation after each convolution (FC: after each hidden layer; FRePo-D: before each convolution but the
    first). None means the table's."""
    parameterization: Parameterization = "standard"
    """The place of the weights' scale: their initial values (`standard`), or the forward pass (`ntk`)."""
    w_std: Annotated[float, Field(gt=0)] = math.sqrt(2.0)
    """The standard deviation of the initial weights, before the 1/sqrt(fan-in)."""
    b_std: Annotated[float, Field(ge=0)] | None = None
    """The standard deviation of the initial biases. None means 0.1 for the networks that have a kernel of their name,
    and 0 for the rest."""
    growth: Annotated[int, Field(ge=1)] = 1
    """The ratio of each block's width to that of the block before, for ConvNet-D only; that of FRePo-D is 2."""
    activation: Activation = "relu"
    """The nonlinearity: ReLU, or a softplus that is smooth and almost equal to it. RCIG distils with `softplus`."""
    source: str | None = None
    """The SHA-256 of the file of a network of your own, by which a changed network is another one. None means that of
    the file as it is now."""

    def __post_init__(self) -> None:
        if own.is_own(self.name):
            self._check_own()
            return
        builder_of(self.name)
        if self.source is not None:
            raise ConfigError("source", got=f"one for {self.name}", expected="a network of your own, FILE.py:NAME")
        if self.activation != "relu" and self.name == "MobileNetV2":
            raise ConfigError("activation", got=f"{self.activation!r} with MobileNetV2", expected="relu: it clips at 6")
        if self.growth != 1 and not self.name.startswith("ConvNet-D"):
            raise ConfigError("growth", got=f"{self.growth} with {self.name}", expected="1, or a ConvNet-D")
        if self.norm == "instance" and self.name.startswith("FC"):
            raise ConfigError("norm", got=f"'instance' with {self.name}", expected="none, layer or batch")

    def _check_own(self) -> None:
        """Refuse options that a network of the user's own does not have, and note its file's content."""
        for field in dataclasses.fields(self):
            if field.name not in ("name", "source", "w_std", "b_std") and getattr(self, field.name) != field.default:
                raise ConfigError(
                    field.name,
                    got=f"{getattr(self, field.name)!r} with {self.name}",
                    expected="no option",
                    remedy="A network of your own has its sizes in its file.",
                )
        if self.source is None:
            object.__setattr__(self, "source", own.source_of(self.name))

    @model_validator(mode="after")
    def _note_who_names_it(self, info: ValidationInfo) -> Network:
        if own.is_own(self.name):
            permission.note(self.name, from_data=info.mode == "json")
        return self

    @model_serializer(mode="wrap")
    def _without_default(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What was stored before there was a choice, such as a teacher or a checkpoint, is found under the same name.
        written = handler(self)
        if written["activation"] == "relu":
            del written["activation"]
        if written["source"] is None:
            del written["source"]
        return written

    @property
    def batch_normalised(self) -> bool:
        """True if the network has batch normalisation.

        Raises:
            ConfigError: if it is the user's own, whose layers are not known.
        """
        if own.is_own(self.name):
            raise ConfigError(
                f"a method with the network {self.name!r}",
                got="a network of your own",
                expected="one of the table of networks",
                remedy="Networks of your own judge sets: in transfer, compare, evaluate and a judge.",
            )
        return (self.norm or builder_of(self.name).norm) == "batch"

    def largest_layer(self, height: int, width: int) -> int:
        """Return an estimate of the numbers that the largest layer holds for one image of that size."""
        if own.is_own(self.name):
            return OWN_CHANNELS * height * width
        builder = builder_of(self.name)
        channels = self.width or builder.width
        positions = 1 if self.name.startswith("FC") else max(height, builder.padded) * max(width, builder.padded)
        return max(channels * positions, height * width)

    @property
    def label(self) -> str:
        """A short name for tables: the name and what differs from its defaults, such as `ConvNet width=128`."""
        return label(self, without=("source",))


class Outputs(NamedTuple):
    """The outputs of a network for a batch."""

    logits: Array
    """The logits, (N, c)."""
    features: Array
    """The inputs of the last dense layer, (N, d)."""
    variables: Variables
    """The variables; with `train`, after an update of the running statistics."""


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
    plain: bool = False
    """True if convolutions are XLA's alone on CPUs too; see `kip.networks.layers.convolution`."""

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
            variables: those of `init` or of an earlier `apply`.
            images: preprocessed.
            train: normalise by the batch's statistics and move the running ones; matters for batch normalisation only.
                To test by batch statistics, pass True and drop the variables.
        """
        module: Any = self._module
        if not train or "batch_stats" not in variables:
            parts = [module.apply(variables, piece, train) for piece in self._pieces(images)]
            logits, features = parts[0] if len(parts) == 1 else map(jnp.concatenate, zip(*parts))
            return Outputs(logits, features, variables)
        (logits, features), moved = module.apply(variables, images, True, mutable=["batch_stats"])
        return Outputs(logits, features, {**variables, **moved})

    def moments(self, variables: Variables, images: Array) -> dict[str, Any]:
        """Return, in test mode, the batch mean and variance of the input of each batch normalisation, nested by layer.

        The tree has `mean` and `var` where `variables["batch_stats"]` has a layer's running `mean` and `var` under
        `batch`; it is empty for networks without batch normalisation.
        """
        module: Any = self._module
        _, collections = module.apply(variables, images, False, mutable=["moments", "batch_stats"])
        return dict(collections.get("moments", {}))

    def observe(self, variables: Variables, images: Array) -> tuple[Outputs, dict[str, Array]]:
        """Return the outputs in test mode, and the input of each convolution and batch normalisation, by its name.

        Names are `Conv_0`, `Conv_1`, ... and `Normalise_0`, ..., numbered in the order in which images pass them.
        """
        module: Any = self._module
        (logits, features), collections = module.apply(variables, images, False, mutable=["inputs"])
        seen = {name: layer["x"] for name, layer in collections.get("inputs", {}).items()}
        return Outputs(logits, features, variables), seen

    def check_images(self, height: int, width: int) -> None:
        """Refuse images that are too small for the pools, or for an instance normalisation of more than single pixels.

        Raises:
            ShapeError: if a side is too short.
        """
        if own.is_own(self.network.name):
            return
        builder = builder_of(self.network.name)
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

    def _pieces(self, images: Array) -> list[Array]:
        """Return images in parts whose layers stay in a CPU's cache; on other devices in one."""
        largest = self.network.largest_layer(*images.shape[1:3])
        count = min(MOST_PIECES, len(images), -(-len(images) * largest // CACHED))
        return [images] if count <= 1 or platform() != "cpu" else jnp.array_split(images, count)

    @property
    def readout_variances(self) -> tuple[float, float]:
        """w_std^2 and b_std^2 of the last dense layer: w_std^2/d F F^T + b_std^2 is its NNGP kernel on features F."""
        return self._style.w_std**2, self._style.b_std**2

    @property
    def _style(self) -> Style:
        config, builder = self.network, _builder(self.network)
        b_std = builder.b_std if config.b_std is None else config.b_std
        norm = config.norm or builder.norm
        return Style(norm, config.parameterization, config.w_std, b_std, config.activation, self.plain)

    @property
    def _module(self) -> nn.Module:
        if own.is_own(self.network.name):
            return own.Own(self.network.name, self.network.source, self.num_outputs)
        config, builder = self.network, builder_of(self.network.name)
        body = builder.body if config.growth == 1 else functools.partial(builder.body, growth=config.growth)
        return _Classifier(body, self._style, config.width or builder.width, builder.padded, self.num_outputs)


def _builder(config: Network) -> Builder:
    """Return a network's builder, for its style; a network of the user's own has that of the table's defaults."""
    return Builder(flatten, 1) if own.is_own(config.name) else builder_of(config.name)


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


def fresh(model: Model, key: Array, image_shape: tuple[int, ...]) -> Variables:
    """Return the variables that a key draws for images (H, W, C); for keys (r,), stacked along a leading axis.

    Raises:
        ShapeError: if the images are too small for the network.
    """
    return _compiled_draw(model, tuple(image_shape), key.ndim > 0)(key)


@functools.lru_cache(maxsize=64)
def _compiled_draw(model: Model, shape: tuple[int, int, int], many: bool) -> Callable[[Array], Variables]:
    draw = lambda key: model.init(key, shape)  # noqa: E731
    return jax.jit(jax.vmap(draw) if many else draw)


CONVNET = Network("ConvNet-D3", w_std=3**-0.5)
"""The network of the literature on small sets, with the deviation of weights that PyTorch draws."""
