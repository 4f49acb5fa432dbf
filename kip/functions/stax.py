"""Networks written as neural-tangents' `stax` writes them, translated into the architecture that the engine computes.

    from kip import stax  # in place of `from neural_tangents import stax`

    init_fn, apply_fn, kernel_fn = stax.serial(
        stax.Conv(64, (3, 3), padding="SAME"), stax.Relu(), stax.Flatten(), stax.Dense(10)
    )
    kernel_fn(x1, x2, "ntk")

The layers have the names, arguments and defaults of neural-tangents 0.6.5. A network of neural-tangents cannot be
translated: it is three functions, which do not say what they were made of.

| refused | where |
|---|---|
| layers without a name here (LayerNorm, Dropout, FanOut, ...) | at the name |
| convolutions other than 3x3, stride 1, SAME; pools other than 2x2, stride 2, VALID | at the layer |
| the `standard` parameterisation, widths `s`, other axes; `Erf` with other scales; a stabilised `Relu` | at the layer |
| another order of layers than that of a family of `kip.Architecture` | at `kernel_fn` |
| different W_std, b_std or activations in one network | at `kernel_fn` |
| `init_fn` and `apply_fn`, which are of finite networks | where they are called |
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from kip.errors import ConfigError, did_you_mean
from kip.functions.kernel import KernelFn, kernel_fn
from kip.kernels import Architecture
from kip.kernels.architecture import MYRTLE_BLOCKS

_REMEDY = "neural-tangents computes it: name its function in kip.Stax('my_network.py:kernel_fn')."
_FAMILIES = {"FC": "F?((?:DA)+)D", "ConvVec": "((?:CA)+)FD", "ConvNet": "CA((?:CAP)+)FD", "ConvNet3": "((?:CAP)+)FD"}
"""The layers of each family by their letters (`Layer.letter`); the group is repeated `depth` times."""


class Layer(NamedTuple):
    """A layer as the translation sees it.

    Attributes:
        name: its name in stax.
        letter: its part in a network: C, D, A (activation), P, F or G (global pool).
        w_std: of a convolution or dense layer; None for others.
        b_std: of a convolution or dense layer; None for others.
    """

    name: str
    letter: str
    w_std: float | None = None
    b_std: float | None = None


class Network:
    """A sequence of layers, which unpacks as (init_fn, apply_fn, kernel_fn), and is a layer of another `serial`."""

    def __init__(self, layers: Sequence[Layer]):
        self.layers = tuple(layers)

    @property
    def architecture(self) -> Architecture:
        """The network's value.

        Raises:
            ConfigError: if the engine has no such network.
        """
        return _architecture(self.layers)

    @property
    def kernel_fn(self) -> KernelFn:
        """The network's kernel; see `kip.kernel_fn`.

        Raises:
            ConfigError: if the engine has no such network.
        """
        takes_images = self.architecture.family != "FC" or self.layers[0].letter == "F"
        return kernel_fn(self.architecture, takes_images=takes_images)

    def init_fn(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse to draw parameters: the network is infinitely wide."""
        _refuse_finite("init_fn")

    def apply_fn(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse to apply the network: it is infinitely wide."""
        _refuse_finite("apply_fn")

    def __iter__(self) -> Iterator[Any]:
        return iter((self.init_fn, self.apply_fn, self.kernel_fn))

    def __getitem__(self, place: int) -> Any:
        return (self.init_fn, self.apply_fn, self.kernel_fn)[place]

    def __len__(self) -> int:
        return 3

    def __repr__(self) -> str:
        return f"serial({', '.join(layer.name for layer in self.layers)})"


def serial(*layers: Layer | Network) -> Network:
    """Return the network of these layers, one after the other.

    Raises:
        ConfigError: if something is no layer of this module. What the engine cannot compute is refused where the
            network is unpacked or its `kernel_fn` is asked for, since it may be a part of another network.

    >>> _, _, kernel_fn = serial(Dense(512, W_std=2.0**0.5, b_std=0.1), Relu(), Dense(1, W_std=2.0**0.5, b_std=0.1))
    >>> kernel_fn.kernel.label
    'FC1'
    """
    flat: list[Layer] = []
    for layer in layers:
        if not isinstance(layer, (Layer, Network)):
            raise ConfigError(
                "a layer of kip.stax.serial",
                got=f"a {type(layer).__name__}",
                expected="a layer of kip.stax",
                remedy="A layer of neural-tangents cannot be looked into: import stax from kip alone.",
            )
        flat += [layer] if isinstance(layer, Layer) else layer.layers
    return Network(flat)


def Dense(
    out_dim: int,
    W_std: float = 1.0,
    b_std: float | None = None,
    batch_axis: int = 0,
    channel_axis: int = -1,
    parameterization: str = "ntk",
    s: tuple[int, int] = (1, 1),
) -> Layer:
    """Return a dense layer; its width `out_dim` is infinite."""
    _only("Dense", "batch_axis", batch_axis, 0)
    _only("Dense", "channel_axis", channel_axis, -1)
    _only("Dense", "parameterization", parameterization.lower(), "ntk")
    _only("Dense", "s", tuple(s), (1, 1))
    return Layer("Dense", "D", float(W_std), float(b_std or 0.0))


def Conv(
    out_chan: int,
    filter_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str = "VALID",
    W_std: float = 1.0,
    b_std: float | None = None,
    dimension_numbers: Any = None,
    parameterization: str = "ntk",
    s: tuple[int, int] = (1, 1),
) -> Layer:
    """Return a 3x3 convolution with zeros outside the image; its channels `out_chan` are infinitely many."""
    _only("Conv", "filter_shape", tuple(filter_shape), (3, 3))
    _only("Conv", "strides", tuple(strides or (1, 1)), (1, 1))
    _only("Conv", "padding", padding.upper(), "SAME")
    _only("Conv", "dimension_numbers", dimension_numbers, None)
    _only("Conv", "parameterization", parameterization.lower(), "ntk")
    _only("Conv", "s", tuple(s), (1, 1))
    return Layer("Conv", "C", float(W_std), float(b_std or 0.0))


def Relu(do_stabilize: bool = False) -> Layer:
    """Return the ReLU."""
    _only("Relu", "do_stabilize", do_stabilize, False)
    return Layer("Relu", "A")


def Erf(a: float = 1.0, b: float = 1.0, c: float = 0.0) -> Layer:
    """Return the error function, a erf(b x) + c with a = b = 1 and c = 0."""
    _only("Erf", "(a, b, c)", (a, b, c), (1.0, 1.0, 0.0))
    return Layer("Erf", "A")


def AvgPool(
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str = "VALID",
    normalize_edges: bool = False,
    batch_axis: int = 0,
    channel_axis: int = -1,
) -> Layer:
    """Return the mean of squares of 2x2 positions; nothing is padded, so that `normalize_edges` changes nothing."""
    _only("AvgPool", "window_shape", tuple(window_shape), (2, 2))
    _only("AvgPool", "strides", tuple(strides or (1, 1)), (2, 2))
    _only("AvgPool", "padding", padding.upper(), "VALID")
    _only("AvgPool", "batch_axis", batch_axis, 0)
    _only("AvgPool", "channel_axis", channel_axis, -1)
    return Layer("AvgPool", "P")


def GlobalAvgPool(batch_axis: int = 0, channel_axis: int = -1) -> Layer:
    """Return the mean over all positions."""
    _only("GlobalAvgPool", "batch_axis", batch_axis, 0)
    _only("GlobalAvgPool", "channel_axis", channel_axis, -1)
    return Layer("GlobalAvgPool", "G")


def Flatten(batch_axis: int = 0, batch_axis_out: int = 0) -> Layer:
    """Return the layer that makes a vector of all positions and channels."""
    _only("Flatten", "batch_axis", batch_axis, 0)
    _only("Flatten", "batch_axis_out", batch_axis_out, 0)
    return Layer("Flatten", "F")


__all__ = ["AvgPool", "Conv", "Dense", "Erf", "Flatten", "GlobalAvgPool", "Relu", "serial"]


def __getattr__(name: str) -> Any:
    if name.startswith("_") or not name[:1].isupper():
        raise AttributeError(f"module 'kip.stax' has no attribute {name!r}")
    hint = did_you_mean(name, __all__)
    raise ConfigError(
        f"the layer stax.{name}",
        got="a layer that kip.stax does not have",
        expected=", ".join(__all__),
        remedy=hint + _REMEDY,
    )


def _only(layer: str, option: str, given: Any, known: Any) -> None:
    if given != known:
        raise ConfigError(f"{option} of stax.{layer}", got=repr(given), expected=repr(known), remedy=_REMEDY)


def _refuse_finite(name: str) -> NoReturn:
    raise ConfigError(
        f"{name} of a network of kip.stax",
        got="an infinitely wide network",
        expected="its kernel_fn",
        remedy="Finite networks are kip.network's, or those of neural_tangents.stax.",
    )


def _architecture(layers: Sequence[Layer]) -> Architecture:
    family, depth = _family("".join(layer.letter for layer in layers), layers)
    activation = _shared([layer.name for layer in layers if layer.letter == "A"], "activations", layers)
    w_std = _shared([layer.w_std for layer in layers if layer.w_std is not None], "W_std", layers)
    b_std = _shared([layer.b_std for layer in layers if layer.b_std is not None], "b_std", layers)
    return Architecture(family, depth, w_std, b_std, activation.lower())


def _family(letters: str, layers: Sequence[Layer]) -> tuple[Any, int]:
    for family, pattern in _FAMILIES.items():
        if match := re.fullmatch(pattern, letters):
            return family, match[1].count("A")
    for depth, (first, second, third) in MYRTLE_BLOCKS.items():
        if letters == "CA" * (1 + first) + "P" + "CA" * second + "P" + "CA" * third + "GD":
            return "Myrtle", depth
    raise ConfigError(
        "the order of the layers of a stax network",
        got=", ".join(layer.name for layer in layers) or "no layer",
        expected="that of FC, ConvVec, ConvNet, ConvNet3 or Myrtle, as kip.Architecture lists them",
        remedy=_REMEDY,
    )


def _shared(values: list[Any], what: str, layers: Sequence[Layer]) -> Any:
    if len(set(values)) > 1:
        raise ConfigError(
            f"{what} of a stax network's layers",
            got=" and ".join(map(str, sorted(set(values)))),
            expected="the same in all layers, the last one included",
            remedy=_REMEDY,
        )
    return values[0]
