"""Images from a generator of the user's own: methods that move images may move its latents instead.

The set holds the generator's images of the latents. A gradient of the images is pulled back through the generator:

    x_i = G(z_i, c_i),      dL/dz_i = (dx_i/dz_i)^T dL/dx_i.

Such a set looks like images that the generator knows, which carries it to other networks. kip brings no generator and
no pretrained weights. `Generator` is the contract of a user's function; `docs/methods/matching.md` has an example.

Reference: Cazenavette et al. 2023, "Generalizing Dataset Distillation via Deep Generative Prior" (GLaD).
"""

from __future__ import annotations

import functools
from functools import partial
from typing import Annotated, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import Field, ValidationInfo, model_validator

from kip.config import value
from kip.errors import ConfigError, ShapeError
from kip.kernels import permission
from kip.kernels.user_function import load_function
from kip.methods.problem import Problem
from kip.precision import AnyArray
from kip.rng import generator as random_generator


class Generator(Protocol):
    """A function of latents and classes that makes images, written in JAX, so that it can be differentiated."""

    def __call__(self, latents: Array, classes: Array) -> Array:
        """Return images (n, H, W, C), 0 black and 1 white, of the size of the data set's.

        Args:
            latents: (n, ...), of the shape that the configuration gives; at first standard normal.
            classes: the class of each image, int (n,).
        """
        ...


@value
class Latents:
    """Latents of a generator of the user's own, which are learned in place of images.

    Loading the generator runs its file. A generator that is named by data alone has to be permitted; see
    `kip.kernels.permission`.
    """

    generator: str
    """The function, `package.module:name` or `path/to/file.py:name`, of the kind `kip.methods.generator.Generator`."""
    shape: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    """The shape of an image's latent."""

    def __post_init__(self) -> None:
        if ":" not in self.generator:
            raise ConfigError("generator", got=repr(self.generator), expected="'module:name' or 'file.py:name'")

    @model_validator(mode="after")
    def _note_who_names_it(self, info: ValidationInfo) -> Latents:
        permission.note(self.generator, from_data=info.mode == "json")
        return self

    def check(self, problem: Problem) -> None:
        """Refuse a generator that may not be loaded, or whose images do not fit the data set. It is loaded here.

        Raises:
            ConfigError: if nobody permits it, it cannot be loaded, or preprocessing mixes pixels.
            ShapeError: if its images have another shape than the data set's.
        """
        problem.pixel_range()
        latents = jax.ShapeDtypeStruct((1, *self.shape), jnp.float32)
        made = jax.eval_shape(self._function(), latents, jax.ShapeDtypeStruct((1,), jnp.int32))
        expected = (1, *problem.inputs.shape[1:])
        if getattr(made, "shape", None) != expected:
            raise ShapeError(
                f"images of the generator {self.generator}",
                got=getattr(made, "shape", type(made).__name__),
                expected=str(expected),
            )

    def draw(self, count: int, *, seed: int) -> np.ndarray:
        """Return the first latents, standard normal, (count, ...) float32."""
        return random_generator(seed, "initial latents").standard_normal((count, *self.shape)).astype(np.float32)

    def images(self, problem: Problem, latents: AnyArray, classes: np.ndarray) -> Array:
        """Return the generator's images, preprocessed, (n, H, W, C)."""
        return _images(latents, jnp.asarray(classes), *problem.pixel_range(), function=self._function())

    def pull_back(self, problem: Problem, latents: AnyArray, classes: np.ndarray, gradient: AnyArray) -> Array:
        """Return the gradient with respect to the latents, given that with respect to the preprocessed images."""
        return _pull_back(latents, jnp.asarray(classes), *problem.pixel_range(), gradient, function=self._function())

    def _function(self) -> Generator:
        permission.check(self.generator, of="generator")
        return _load(self.generator)


@functools.lru_cache(maxsize=8)
def _load(name: str) -> Generator:
    return load_function(
        name, of="a generator", signature="(latents, classes)", example="def NAME(latents, classes): ..."
    )


@partial(jax.jit, static_argnames=("function",))
def _images(latents: AnyArray, classes: Array, black: Array, white: Array, *, function: Generator) -> Array:
    return black + (white - black) * function(jnp.asarray(latents), classes)


@partial(jax.jit, static_argnames=("function",))
def _pull_back(
    latents: AnyArray, classes: Array, black: Array, white: Array, gradient: Array, *, function: Generator
) -> Array:
    _, pull = jax.vjp(lambda z: black + (white - black) * function(z, classes), latents)
    return pull(gradient)[0]
