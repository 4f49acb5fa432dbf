"""RDED: the most realistic crops of natural images, chosen by a trained network and put together.

For each class, of `pool` natural images, `count` random square crops each (an area uniform in [0.08, 1] of the image,
resized to side / `factor`) are scored by the network's cross-entropy at the class, on the crop centred in zeros. Of
each image the crop with the lowest score stays, and of these the lowest images_per_class * factor^2; `factor`^2 of them
make one image. With `factor` 1, as at 32x32 pixels, an image is one crop.

Labels are the classes; the paper's soft labels are those of the protocols `RDED` and, with `factor` 2, `RDED-tiles`.

Reference: Sun et al. 2024, "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation
Paradigm"; public code.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from typing_extensions import final

from kip.config import value
from kip.data import centred_one_hot
from kip.judges import Students
from kip.methods.contract import LabelsAre, Method, Metrics, Needs
from kip.methods.decoupled.crops import Crops
from kip.methods.decoupled.squeeze import needs_of, squeeze_network
from kip.methods.problem import Problem, State
from kip.networks.model import CONVNET, Model, Network, Variables
from kip.storage.artefacts import Store
from kip.training.protocols import PROTOCOLS, Protocol
from kip.training.squeeze import Squeeze


@final
@value
class RDED(Method[Variables, None]):
    """Realistic crops: choose crops of natural images by a trained network."""

    images_per_class: Annotated[int, Field(ge=1)] = 10
    """The number of images of each class."""
    network: Network = Network("ResNet18")
    """The network that chooses crops."""
    protocol: Protocol = PROTOCOLS["HL"]
    """The protocol by which the judge's networks are trained."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """The number of networks that are trained for the accuracy on validation images, at each checkpoint."""
    test_networks: Annotated[int, Field(ge=1)] = 3
    """The number of networks that are trained for the accuracy on test images."""
    squeeze: Squeeze = Squeeze()
    """The training of the network that chooses crops."""
    crops: Crops = Crops()
    """The choice of crops of natural images."""
    evaluation_network: Network = CONVNET
    """The network that is trained on the set to judge it."""
    name: Literal["rded"] = "rded"

    @property
    def label(self) -> str:
        """The network."""
        return self.network.label

    @property
    def labels_are(self) -> LabelsAre:
        """Classes: labels are fixed."""
        return "classes"

    @property
    def judge(self) -> Students:
        """Fresh networks, trained under the protocol; the network that chose the crops is its teacher."""
        return Students(
            self.evaluation_network,
            self.protocol,
            validation_networks=self.validation_networks,
            test_networks=self.test_networks,
            teachers=(self.network,),
            squeeze=self.squeeze,
        )

    @property
    def needs(self) -> Needs:
        """Images of each class, one for each crop of the set."""
        return needs_of(self.images_per_class, self.crops)

    @property
    def steps(self) -> int:
        """One: the choice."""
        return 1

    def prepare(self, problem: Problem, store: Store) -> Variables:
        """Return the network that scores.

        Raises:
            ShapeError: if images cannot be cut into `factor` by `factor` crops.
        """
        self.crops.check(problem)
        return squeeze_network(self.squeeze, self.network, problem, store)[1]

    def init(self, problem: Problem, prepared: Variables) -> State[None]:
        """Return step 0: natural images."""
        return problem.natural_support(self.images_per_class)

    def step(self, problem: Problem, prepared: Variables, state: State[None]) -> tuple[State[None], Metrics]:
        """Return the chosen crops as images, with their mean cross-entropy.

        Raises:
            ConfigError: if the pool is smaller than the crops of a class.
        """
        model, count = Model(self.network, problem.num_classes), self.images_per_class
        chosen, losses = zip(
            *(self.crops.of_class(model, prepared, problem, label, count) for label in range(problem.num_classes))
        )
        class_index = np.repeat(np.arange(problem.num_classes), count)
        order = np.argsort(state.class_index, kind="stable")  # whose statistics a class takes over
        new_state = state._replace(
            step=1,
            inputs=np.concatenate(chosen),
            labels=centred_one_hot(class_index, problem.num_classes),
            class_index=class_index,
            statistics=state.statistics[order],
        )
        return new_state, {"crop_cross_entropy": float(np.mean(losses))}  # no loss of the set: it looks at no set
