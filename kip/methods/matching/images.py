"""Images that a matching method learns, or the latents of a user's generator that are learned in their place (GLaD).

Every function takes the method's `latents`. None means that the images themselves are learned; otherwise an optimiser
moves the latents, and the generator makes the images of them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from kip.errors import ConfigError
from kip.methods.checks import refuse_batch_norm
from kip.methods.descent import Parameters
from kip.methods.generator import Latents
from kip.methods.problem import Owned, Problem, State
from kip.networks.model import Model, Network
from kip.precision import AnyArray
from kip.rng import generator

Start = Literal["noise", "real"]
"""The images at step 0: normal noise, or natural images."""


def check_start(start: Start, latents: Latents | None) -> None:
    """Refuse latents with images that start as natural ones.

    Raises:
        ConfigError: if there are latents, and images do not start as noise.
    """
    if latents is not None and start != "noise":
        raise ConfigError("start with latents", got=repr(start), expected="'noise'", remedy="First latents are drawn.")


def check_fits(problem: Problem, network: Network, latents: Latents | None, *, method: str) -> None:
    """Check that the images fit the network, and a generator the images.

    Raises:
        ConfigError: if the network has batch normalisation, or a generator cannot be loaded.
        ShapeError: if the images are too small for it, or a generator's have another shape.
    """
    refuse_batch_norm(network, f"the network of {method}")
    Model(network, problem.num_classes).check_images(*problem.inputs.shape[1:3])
    if latents is not None:
        latents.check(problem)


def first_images(problem: Problem, images_per_class: int, start: Start, latents: Latents | None) -> State[None]:
    """Return natural images, or noise or a generator's images in their place, with their classes."""
    state = problem.natural_support(images_per_class)
    if latents is not None:
        drawn = latents.draw(len(state.inputs), seed=problem.seed)
        return state._replace(inputs=np.asarray(latents.images(problem, drawn, state.class_index)), latents=drawn)
    if start == "real":
        return state
    noise = generator(problem.seed, "initial noise").standard_normal(state.inputs.shape)
    return state._replace(inputs=noise.astype(np.float32))


def natural_start(initial: State[Owned], exported: State[Owned], start: Start) -> State[Owned] | None:
    """Return the natural images that learning started from, with the exported set's rates; None where it was noise."""
    return initial._replace(learning_rates=exported.learning_rates) if start == "real" else None


def parameters(state: State[Owned], latents: Latents | None) -> Parameters:
    """Return the arrays that the optimiser moves, by name: the images, or the latents that make them."""
    if latents is None:
        return {"images": state.inputs}
    assert state.latents is not None
    return {"latents": state.latents}


def pull_back(problem: Problem, state: State[Owned], latents: Latents | None, gradient: AnyArray) -> Parameters:
    """Return the gradient with respect to `parameters`, given that with respect to the images."""
    if latents is None:
        return {"images": gradient}
    assert state.latents is not None
    return {"latents": latents.pull_back(problem, state.latents, state.class_index, gradient)}


def render(problem: Problem, state: State[Owned], latents: Latents | None, after: Parameters) -> Parameters:
    """Return the parameters after an update, with the images of their latents where they have latents."""
    if latents is None:
        return after
    return {**after, "images": latents.images(problem, after["latents"], state.class_index)}
