"""Spaces in which images are points: pixels, a trained network's features or gradients, a kernel's features.

A space is a frozen value. `points(task)` makes its parts once, such as a recording, and returns the function that
gives some images as points. Rules of `kip.methods.selection.geometric` choose among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal, Union

import numpy as np
from pydantic import Field
from typing_extensions import final

from kip.config import value
from kip.kernels.architecture import Architecture, Kernel
from kip.methods.contract import Needs
from kip.methods.selection.points import Gram, Vectors, last_layer_gradients
from kip.methods.selection.task import Task
from kip.methods.selection.uncertainty import softmax
from kip.training.records import Recording

PADDING = 64
"""Images of a class are repeated up to a multiple of this where kernels are computed."""


@final
@value
class Pixels:
    """Preprocessed pixels: an image x is the vector of its H W C values."""

    kind: Literal["pixels"] = "pixels"

    @property
    def label(self) -> str:
        """A short name for tables and titles."""
        return "pixels"

    def needs(self, candidates: int | None) -> Needs:
        """Return the demands on a data set of a choice from some images of a class (None: all)."""
        return Needs(class_images=candidates or math.inf)

    def points(self, task: Task) -> Callable[[np.ndarray], Vectors]:
        """Return the function that gives the images of some indices (m,) as points."""
        inputs = task.problem.inputs
        return lambda members: Vectors(inputs[members].reshape(len(members), -1))


@final
@value
class Features:
    """The last features of a network that learned the train set: of the first network of the recording."""

    recording: Recording = Recording()
    """The network that learns the train set, and its training."""
    kind: Literal["features"] = "features"

    @property
    def label(self) -> str:
        """A short name for tables and titles."""
        return "features"

    def needs(self, candidates: int | None) -> Needs:
        """Return the demands on a data set of a choice from some images of a class (None: all)."""
        return Needs()

    def points(self, task: Task) -> Callable[[np.ndarray], Vectors]:
        """Return the function that gives the images of some indices (m,) as points."""
        records = task.records_of(self.recording)
        return lambda members: Vectors(records.features(members))


@final
@value
class Gradients:
    """The gradient of an image's cross-entropy with respect to the last dense layer of a trained network.

    It is that of DeepCore (Guo et al. 2022), of the first network of the recording, at its last epoch. See
    `kip.methods.selection.points.last_layer_gradients` for the formula.
    """

    recording: Recording = Recording()
    """The network that learns the train set, and its training."""
    kind: Literal["gradients"] = "gradients"

    @property
    def label(self) -> str:
        """A short name for tables and titles."""
        return "gradients"

    def needs(self, candidates: int | None) -> Needs:
        """Return the demands on a data set of a choice from some images of a class (None: all)."""
        return Needs()

    def points(self, task: Task) -> Callable[[np.ndarray], Gram]:
        """Return the function that gives the images of some indices (m,) as points."""
        records, problem = task.records_of(self.recording), task.problem

        def of_members(members: np.ndarray) -> Gram:
            one_hot = np.eye(problem.num_classes)[problem.labels[members]]
            return last_layer_gradients(records.features(members), softmax(records.last(members)) - one_hot)

        return of_members


@final
@value
class KernelSpace:
    """The feature space of a kernel, such as the NTK: inner products are the values of the kernel."""

    kernel: Kernel = Architecture()
    """The kernel under which images are compared."""
    kind: Literal["kernel"] = "kernel"

    @property
    def label(self) -> str:
        """A short name for tables and titles."""
        return self.kernel.label

    def needs(self, candidates: int | None) -> Needs:
        """Return the demands on a data set of a choice from some images of a class (None: all)."""
        return Needs(kernels=(self.kernel,), class_images=candidates or math.inf)

    def points(self, task: Task) -> Callable[[np.ndarray], Gram]:
        """Return the function that gives the images of some indices (m,) as points."""
        inputs, blocks = task.problem.inputs, task.problem.blocks

        def of_members(members: np.ndarray) -> Gram:
            # Some images are repeated, so that classes of about the same size share their compiled tiles.
            padded = np.resize(members, -(-len(members) // PADDING) * PADDING)
            k_ss = blocks.forward(self.kernel, inputs[padded], inputs[:0]).k_ss
            return Gram(k_ss[: len(members), : len(members)])

        return of_members


Space = Annotated[Union[Pixels, Features, Gradients, KernelSpace], Field(discriminator="kind")]
"""A space in which inner products and distances of images are known."""
VectorSpace = Annotated[Union[Pixels, Features], Field(discriminator="kind")]
"""A space whose points are vectors that can be written down."""
