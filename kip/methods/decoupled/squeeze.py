"""What the methods of this family have in common: squeezed networks, and students that these can label the set for."""

from __future__ import annotations

import abc
from typing import Annotated

from pydantic import Field

from kip.config import value
from kip.judges import Students
from kip.methods.contract import LabelsAre, Method, Needs, Prepared
from kip.methods.decoupled.crops import Crops
from kip.methods.problem import Owned, Problem
from kip.networks.model import CONVNET, Model, Network, Variables
from kip.storage.artefacts import Store
from kip.training.protocols import PROTOCOLS, Protocol
from kip.training.squeeze import Squeeze, squeeze


@value
class Decoupled(Method[Prepared, Owned]):
    """The base of methods that make a set from what trained networks know of the whole train split."""

    images_per_class: Annotated[int, Field(ge=1)] = 10
    """The number of images of each class."""
    network: Network = Network("ResNet18")
    """The network that is squeezed; of several, the first."""
    protocol: Protocol = PROTOCOLS["HL"]
    """The protocol by which the judge's networks are trained."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """The number of networks that are trained for the accuracy on validation images, at each checkpoint."""
    test_networks: Annotated[int, Field(ge=1)] = 3
    """The number of networks that are trained for the accuracy on test images."""
    squeeze: Squeeze = Squeeze()
    """The training of the squeezed networks."""
    crops: Crops = Crops()
    """The choice of crops of natural images, for sets that are made of them or begin as such."""
    evaluation_network: Network = CONVNET
    """The network that is trained on the set to judge it."""

    @property
    @abc.abstractmethod
    def networks(self) -> tuple[Network, ...]:
        """The squeezed networks, in their order."""

    @property
    def label(self) -> str:
        """The first network that is squeezed."""
        return self.network.label

    @property
    def labels_are(self) -> LabelsAre:
        """Classes: labels are fixed."""
        return "classes"

    @property
    def judge(self) -> Students:
        """Fresh networks, trained under the protocol; the squeezed networks are its teachers."""
        return Students(
            self.evaluation_network, self.protocol, validation_networks=self.validation_networks,
            test_networks=self.test_networks, teachers=self.networks, squeeze=self.squeeze,
        )  # fmt: skip


def needs_of(images_per_class: int, crops: Crops | None) -> Needs:
    """Return what a method asks of a data set: images of each class, for the set or for the crops that make it."""
    return Needs(images_per_class * (1 if crops is None else crops.factor**2), augmentation=False)


def squeezed(config: Squeeze, network: Network, problem: Problem, store: Store) -> tuple[Model, Variables]:
    """Return the trained network, made or found; see `kip.training.squeeze.squeeze`."""
    return squeeze(
        config, network, problem.inputs, problem.labels, problem.num_classes, seed=problem.seed,
        mirror_keeps_class=problem.mirror_keeps_class, store=store,
    )  # fmt: skip
