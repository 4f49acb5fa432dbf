"""Answers to the contract's questions that methods of several families share.

Each is a property, which a class takes over by its name: `label = label_of_network`. It reads the options of that
class.
"""

from __future__ import annotations

from typing import Protocol

from kip.judges import Students
from kip.methods.contract import LabelsAre, Needs
from kip.networks.model import Network
from kip.training import protocols


class WithNetwork(Protocol):
    """A method with the option `network`."""

    @property
    def network(self) -> Network:
        """The network that the method works with."""
        ...


class WithStudents(WithNetwork, Protocol):
    """A method whose own network is trained on the set to judge it."""

    @property
    def protocol(self) -> protocols.Protocol:
        """The protocol by which the judge's networks are trained."""
        ...

    @property
    def validation_networks(self) -> int:
        """The number of networks that are trained for the accuracy on validation images."""
        ...

    @property
    def test_networks(self) -> int:
        """The number of networks that are trained for the accuracy on test images."""
        ...


class WithImagesPerClass(Protocol):
    """A method with the option `images_per_class`."""

    @property
    def images_per_class(self) -> int:
        """The number of images of each class."""
        ...


class WithLearnLabels(Protocol):
    """A method with the option `learn_labels`."""

    @property
    def learn_labels(self) -> bool:
        """Learn labels with the images."""
        ...


@property
def label_of_network(method: WithNetwork) -> str:
    """The network."""
    return method.network.label


@property
def fixed_classes(method: object) -> LabelsAre:
    """Classes: labels are fixed."""
    return "classes"


@property
def scores_if_learned(method: WithLearnLabels) -> LabelsAre:
    """Learned scores, or the classes of natural images."""
    return "scores" if method.learn_labels else "classes"


@property
def students(method: WithStudents) -> Students:
    """Fresh networks, trained under the protocol."""
    return students_under(method.protocol, method)


@property
def images_of_each_class(method: WithImagesPerClass) -> Needs:
    """Images of each class; natural batches are the method's own, and never augmented by the experiment."""
    return Needs(method.images_per_class, augmentation=False)


def students_under(protocol: protocols.Protocol, method: WithStudents) -> Students:
    """Return the judge of a method whose networks are trained under a protocol."""
    return Students(
        method.network,
        protocol,
        validation_networks=method.validation_networks,
        test_networks=method.test_networks,
    )
