"""The kernels that a configuration can name: infinitely wide networks, RBF, Laplace, and the user's own.

Each is a small frozen value. `kip.kernels.kernel_function` turns one into a function K(x, z) of two image batches.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Union

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from kip.config import value
from kip.errors import ConfigError, ShapeError, did_you_mean
from kip.kernels import permission, user_function

Family = Literal["FC", "ConvVec", "ConvNet", "ConvNet3", "Myrtle"]
Implementation = Literal["auto", "numba", "pallas", "engine", "neural_tangents"]
"""The program that computes an `Architecture`: our engine, in its form for CPUs (`numba`), for GPUs (`pallas`) or for
XLA (`engine`), neural-tangents, or (`auto`) the engine's form for the device."""
Products = Literal["float32", "tf32"]
"""The precision of matrix products on accelerators: full float32, or TF32 with its three digits."""

DEFAULT_DEPTH = {"FC": 1, "ConvVec": 3, "ConvNet": 3, "ConvNet3": 3, "Myrtle": 5}
MYRTLE_BLOCKS = {5: (1, 1, 1), 7: (1, 2, 2), 10: (2, 3, 3)}


@value
class Architecture:
    """An infinitely wide network, in NTK parameterisation.

    | family | layers (conv is 3x3, SAME, followed by its activation) |
    |---|---|
    | FC | `depth` x (dense, activation), dense |
    | ConvVec | `depth` x conv, flatten, dense |
    | ConvNet | conv, then `depth` x (conv, 2x2 average pool), flatten, dense |
    | ConvNet3 | the same without the first conv (paper, Tables A11 and A12) |
    | Myrtle | conv, three blocks of conv with a pool after each but the last, global average pool, dense |

    A Myrtle network's three blocks have (1, 1, 1), (1, 2, 2) or (2, 3, 3) convs, at depth 5, 7 and 10; its pools are
    2x2 averages.

    Defaults are those of the authors' notebook: W_std = sqrt(2), b_std = 0.1, the readout included.

    Reference: Nguyen et al. 2021, "Dataset Distillation with Infinitely Wide Convolutional Networks", section A.
    """

    family: Family = "ConvNet"
    """The stack of layers; see the table above."""
    depth: Annotated[int, Field(ge=1, le=64)] | None = None
    """The number of hidden layers (FC, ConvVec) or pooled blocks (ConvNet, ConvNet3), or 5, 7, 10 (Myrtle). None means
    1, 3, 3, 3, 5 in the order of the families."""
    w_std: Annotated[float, Field(gt=0)] = math.sqrt(2.0)
    """The standard deviation of the weights, before the 1/sqrt(fan-in)."""
    b_std: Annotated[float, Field(ge=0)] = 0.1
    """The standard deviation of the biases."""
    activation: Literal["relu", "erf"] = "relu"
    """The nonlinearity of the hidden layers."""
    get: Literal["ntk", "nngp"] = "ntk"
    """The kernel: the neural tangent kernel (gradient descent), or the Gaussian process kernel (Bayesian)."""
    kind: Literal["network"] = "network"

    def __post_init__(self) -> None:
        if self.family == "Myrtle" and self.layers not in MYRTLE_BLOCKS:
            raise ConfigError("depth of a Myrtle network", got=self.depth, expected="5, 7 or 10")

    @property
    def layers(self) -> int:
        """The depth, with the family's default filled in."""
        return DEFAULT_DEPTH[self.family] if self.depth is None else self.depth

    @property
    def label(self) -> str:
        """A short name for tables and pictures, like `FC1` or `Myrtle5`."""
        suffix = "" if self.family in ("ConvNet", "ConvNet3") and self.depth in (None, 3) else str(self.layers)
        name = f"{self.family}{suffix}"
        return name if self.get == "ntk" else f"{name} {self.get.upper()}"

    @property
    def poolings(self) -> int:
        """The number of 2x2 average pools that halve the image."""
        return {"ConvNet": self.layers, "ConvNet3": self.layers, "Myrtle": 2}.get(self.family, 0)

    def check_images(self, height: int, width: int) -> None:
        """Refuse images that a pooling would shrink to nothing.

        Raises:
            ShapeError: if a side is shorter than 2 ** poolings pixels.
        """
        least = 2**self.poolings
        if min(height, width) < least:
            raise ShapeError(
                f"images are too small for the {self.poolings} poolings of {self.label}",
                got=f"{height}x{width} pixels",
                expected=f"at least {least}x{least}",
                remedy="Use larger images, a smaller depth, or a family without pooling (FC, ConvVec).",
            )


@value
class RBF:
    """The Gaussian kernel K(x, z) = exp(-|x - z|^2 / (2 length_scale^2 d)), d = pixels x channels."""

    length_scale: Annotated[float, Field(gt=0)] = 1.0
    """The length scale, in units of sqrt(d), so that one value suits standardised images of any size."""
    kind: Literal["rbf"] = "rbf"

    @property
    def label(self) -> str:
        """A short name for tables and pictures."""
        return "RBF"

    def check_images(self, height: int, width: int) -> None:
        """Take images of any size."""


@value
class Laplace:
    """The Laplace kernel K(x, z) = exp(-|x - z| / (length_scale sqrt(d))), d = pixels x channels.

    It has a kink at x = z; its gradient there is taken as 0, by symmetry.
    """

    length_scale: Annotated[float, Field(gt=0)] = 1.0
    """The length scale, in units of sqrt(d)."""
    kind: Literal["laplace"] = "laplace"

    @property
    def label(self) -> str:
        """A short name for tables and pictures."""
        return "Laplace"

    def check_images(self, height: int, width: int) -> None:
        """Take images of any size."""


@value
class Stax:
    """A kernel function of the user's own, such as the third result of `neural_tangents.stax.serial`.

    It is called as `function(x, z, get)` on two image batches (N, H, W, C) and must return the (N, M) kernel. Loading
    it runs the file that it is in: what only data names has to be permitted, see `kip.kernels.permission`.
    """

    function: str
    """The place of the function: `package.module:name` or `path/to/file.py:name`."""
    get: Literal["ntk", "nngp"] = "ntk"
    """The third argument of the function."""
    entry_bytes: Annotated[int, Field(gt=0)] = 1 << 26
    """The temporary memory of forward and vjp for one kernel entry, in bytes. It sets the tile size."""
    kind: Literal["stax"] = "stax"

    def __post_init__(self) -> None:
        if ":" not in self.function:
            raise ConfigError(
                "function of a Stax kernel", got=repr(self.function), expected="'module:name' or 'file.py:name'"
            )

    @model_validator(mode="after")
    def _note_who_names_it(self, info: ValidationInfo) -> Stax:
        permission.note(self.function, from_data=info.mode == "json")
        return self

    @property
    def label(self) -> str:
        """A short name for tables and pictures: the function's."""
        return self.function.rpartition(":")[2]

    def check_images(self, height: int, width: int) -> None:
        """Leave it to the user's function what sizes it takes."""


def _name(function: Any) -> Any:
    return user_function.name_of(function) if callable(function) else function


@value
class Features:
    """The kernel of an encoder's features, K(x, z) = phi(x) . phi(z) / d, such as those of a pretrained network.

    Ridge regression under it is a linear probe of the encoder, without a bias: a feature that is 1 gives it one.

    The encoder phi is a JAX function of images (N, H, W, C), preprocessed as the configuration says, that returns
    features (N, d). Those of an image must not depend on the other images of the batch. They are computed once an
    image, not once a pair, in the dtype of the computation, and their products in float64. Gradients for the images
    flow through the encoder, whose parameters stay as they are.

    Loading it runs the file that it is in: what only data names has to be permitted, see `kip.kernels.permission`.
    """

    function: Annotated[str, BeforeValidator(_name)]
    """The place of the encoder: `path/to/file.py:name` or `package.module:name`. In Python, the function itself may be
    given; unless an imported module holds it, no other process can compute what is stored under it."""
    batch: Annotated[int, Field(ge=1)] = 256
    """The most images that the encoder is given at a time. It bounds the memory."""
    source: str | None = None
    """The SHA-256 of the encoder's file, by which a changed encoder is another one. None means that of the file as it
    is now."""
    kind: Literal["features"] = "features"

    def __post_init__(self) -> None:
        if ":" not in self.function:
            raise ConfigError(
                "function of a Features kernel", got=repr(self.function), expected="'file.py:name' or 'module:name'"
            )
        if self.source is None:
            object.__setattr__(self, "source", user_function.source_of(self.function, of="encoder"))

    @model_validator(mode="after")
    def _note_who_names_it(self, info: ValidationInfo) -> Features:
        permission.note(self.function, from_data=info.mode == "json")
        return self

    @property
    def label(self) -> str:
        """A short name for tables and pictures: the function's."""
        return self.function.rpartition(":")[2]

    def check_images(self, height: int, width: int) -> None:
        """Leave it to the encoder what sizes it takes."""


Kernel = Annotated[Union[Architecture, RBF, Laplace, Stax, Features], Field(discriminator="kind")]


def own_function(kernel: Kernel) -> str | None:
    """Return the function of the user's own that a kernel names; None for kip's own kernels."""
    return kernel.function if isinstance(kernel, (Stax, Features)) else None


def kernel_named(name: str, get: Literal["ntk", "nngp"] = "ntk") -> Architecture | RBF | Laplace:
    """Return the kernel of a short name: `FC1`, `ConvVec3`, `ConvNet`, `ConvNet3`, `Myrtle5`, `RBF`, `Laplace`.

    A number after the family is its depth, but for `ConvNet3`, which is a family; without one, the default depth.

    Raises:
        ConfigError: if there is no such kernel.
    """
    simple = {"rbf": RBF, "laplace": Laplace}
    if name.lower() in simple:
        return simple[name.lower()]()
    for family in sorted(DEFAULT_DEPTH, key=len, reverse=True):
        depth = name[len(family) :]
        if name.lower().startswith(family.lower()) and (not depth or depth.isdecimal()):
            return Architecture(family, int(depth) if depth else None, get=get)  # type: ignore[arg-type]
    raise ConfigError(
        "kernel",
        got=repr(name),
        expected="FC1, ConvVec3, ConvNet, ConvNet3, Myrtle5 (or another depth), RBF or Laplace",
        remedy=did_you_mean(name, [*DEFAULT_DEPTH, "FC1", "ConvVec3", "Myrtle5", "RBF", "Laplace"]).strip() or None,
    )
