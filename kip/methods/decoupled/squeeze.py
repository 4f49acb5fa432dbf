"""What the methods of this family have in common: squeezed networks, and students that these can label the set for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kip.config import value
from kip.judges import Students
from kip.methods.contract import Needs
from kip.methods.decoupled.crops import Crops
from kip.methods.for_networks import ForNetworks
from kip.methods.problem import Problem
from kip.networks.model import CONVNET, Model, Network, Variables
from kip.storage.artefacts import Store
from kip.training.squeeze import Squeeze, squeeze


@value
class Decoupled(ForNetworks):
    """The base of methods that make a set from what trained networks know of the whole train split."""

    images_per_class: Annotated[int, Field(ge=1)] = 10
    """Images of each class."""
    network: Network = Network("ResNet18")
    """The network that is squeezed."""
    squeeze: Squeeze = Squeeze()
    """How it is trained."""
    crops: Crops = Crops()
    """How crops of natural images are chosen, where there are any."""
    evaluation_network: Network = CONVNET
    """What is trained on the set to judge it."""
    test_networks: Annotated[int, Field(ge=1)] = 3
    """Networks trained for the accuracy on test images."""

    @property
    def networks(self) -> tuple[Network, ...]:
        """The squeezed networks."""
        return (self.network,)

    @property
    def takes_crops(self) -> bool:
        """Whether images are made of crops of natural images, or begin as such."""
        return True

    @property
    def judging_network(self) -> Network:
        """What is trained on the set to judge it."""
        return self.evaluation_network

    @property
    def judge(self) -> Students:
        """Fresh networks, trained under the protocol; the squeezed networks are its teachers."""
        return Students(
            self.judging_network, self.protocol, validation_networks=self.validation_networks,
            test_networks=self.test_networks, teachers=self.networks, squeeze=self.squeeze,
        )  # fmt: skip

    @property
    def needs(self) -> Needs:
        """Images of each class: for the set, or for the crops that it is made of."""
        crops = self.crops.factor**2 if self.takes_crops else 1
        return Needs(self.images_per_class * crops, augmentation=False)


def squeezed(config: Squeeze, network: Network, problem: Problem, store: Store) -> tuple[Model, Variables]:
    """Return the trained network, made or found; see `kip.training.squeeze.squeeze`."""
    return squeeze(
        config, network, problem.inputs, problem.labels, problem.num_classes, seed=problem.seed,
        mirror_keeps_class=problem.mirror_keeps_class, store=store,
    )  # fmt: skip
