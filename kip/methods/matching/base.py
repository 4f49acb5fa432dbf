"""What the methods that match networks on natural and on learned images share: their size, their networks, their judge.

Images are learned and their classes stay, so that a set is judged by fresh networks of the kind that was matched, under
the protocol that the method was published with.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from kip.config import value
from kip.errors import ConfigError, NonFiniteError
from kip.methods.for_networks import ForNetworks
from kip.methods.generator import Latents
from kip.methods.matching.classes import refuse_batch_norm
from kip.methods.problem import Problem, State
from kip.networks.model import CONVNET, Model, Network
from kip.rng import generator
from kip.training.protocols import PROTOCOLS, Protocol


@value
class Matching(ForNetworks):
    """The base of matching methods."""

    network: Network = CONVNET
    """The networks that are matched, and those that judge the set; without batch normalisation."""
    start: Literal["noise", "real"] = "real"
    """What the images begin as: normal noise, or natural images."""
    latents: Latents | None = None
    """A generator of the user's own whose latents are learned in place of the images (GLaD); None: there is none."""
    protocol: Protocol = PROTOCOLS["DSA"]
    """How networks are trained that judge the set."""

    def __post_init__(self) -> None:
        if self.latents is not None and self.start != "noise":
            raise ConfigError(
                "start with latents", got=repr(self.start), expected="'noise'", remedy="First latents are drawn."
            )

    def prepare(self, problem: Problem, store: Any) -> Any:
        """Check that the images fit the network, and a generator the images; nothing is made.

        Raises:
            ConfigError: if the network has batch normalisation, or a generator cannot be loaded.
            ShapeError: if the images are too small for it, or a generator's are others.
        """
        refuse_batch_norm(self.network, f"the network of {self.name}")
        self.model(problem).check_images(*problem.inputs.shape[1:3])
        if self.latents is not None:
            self.latents.check(problem)
        return ()

    def natural(self, initial: State, exported: State) -> State | None:
        """Return the natural images that learning started from; None where it started from noise.

        Where a set has learned rates, they have the exported set's.
        """
        return initial._replace(learning_rates=exported.learning_rates) if self.start == "real" else None

    def model(self, problem: Problem) -> Model:
        """Return the network for the problem's classes."""
        return Model(self.network, problem.num_classes)

    def first_images(self, problem: Problem) -> State:
        """Return natural images, or noise or a generator's images in their place, with their classes."""
        state = problem.natural_support(self.images_per_class)
        if self.latents is not None:
            latents = self.latents.draw(len(state.inputs), seed=problem.seed)
            images = np.asarray(self.latents.images(problem, latents, state.class_index))
            return state._replace(inputs=images, latents=latents)
        if self.start == "real":
            return state
        noise = generator(problem.seed, "initial noise").standard_normal(state.inputs.shape)
        return state._replace(inputs=noise.astype(np.float32))

    def learned(self, state: State) -> dict[str, Any]:
        """Return what an optimiser moves, by name: the images, or the latents that make them."""
        return {"images": state.inputs} if self.latents is None else {"latents": state.latents}

    def by_learned(self, problem: Problem, state: State, gradient: Any) -> dict[str, Any]:
        """Return the gradient by what an optimiser moves, given that by the images."""
        if self.latents is None:
            return {"images": gradient}
        return {"latents": self.latents.pulled_back(problem, state.latents, state.class_index, gradient)}

    def with_images(self, problem: Problem, state: State, learned: dict[str, Any]) -> dict[str, Any]:
        """Return what was learned with the images of the latents, where there are any."""
        if self.latents is None:
            return learned
        return {**learned, "images": self.latents.images(problem, learned["latents"], state.class_index)}


def check_finite(loss: float, learned: dict[str, Any]) -> None:
    """Refuse to go on from what is not finite.

    Args:
        loss: before the update.
        learned: after it, by name.

    Raises:
        NonFiniteError: if the loss or an array holds NaN or infinity.
    """
    if not (np.isfinite(loss) and all(np.isfinite(np.asarray(part)).all() for part in learned.values())):
        raise NonFiniteError(
            f"the loss or the learned {' and '.join(learned)} hold NaN or infinity", remedy="Lower the learning rates."
        )
