"""What methods share whose sets keep their classes and are judged by fresh networks under a named protocol."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kip.config import value
from kip.judges import Students
from kip.methods.contract import LabelsAre, Method, Needs
from kip.networks.model import CONVNET, Network
from kip.training.protocols import PROTOCOLS, Protocol


@value
class ForNetworks(Method):
    """The base of methods that make sets for training networks."""

    images_per_class: Annotated[int, Field(ge=1)] = 1
    """Images of each class."""
    network: Network = CONVNET
    """The network that the method works with."""
    protocol: Protocol = PROTOCOLS["HL"]
    """How networks are trained that judge the set."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """Networks trained for the accuracy on validation images, at each checkpoint."""
    test_networks: Annotated[int, Field(ge=1)] = 5
    """Networks trained for the accuracy on test images."""

    @property
    def label(self) -> str:
        """The network."""
        return self.network.label

    @property
    def labels_are(self) -> LabelsAre:
        """Classes: labels are fixed."""
        return "classes"

    @property
    def judging_network(self) -> Network:
        """What is trained on the set to judge it: the method's own network, unless it says otherwise."""
        return self.network

    @property
    def judge(self) -> Students:
        """Fresh networks, trained under the protocol."""
        return Students(
            self.judging_network, self.protocol,
            validation_networks=self.validation_networks, test_networks=self.test_networks,
        )  # fmt: skip

    @property
    def needs(self) -> Needs:
        """Images of each class; natural batches are the method's own, and never augmented by the experiment."""
        return Needs(self.images_per_class, augmentation=False)
