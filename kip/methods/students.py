"""The judge of methods whose sets train fresh networks."""

from __future__ import annotations

from typing import Protocol

from kip.judges import Students
from kip.networks.model import Network
from kip.training import protocols


class WithStudents(Protocol):
    """A method whose own network is trained on the set to judge it."""

    @property
    def network(self) -> Network:
        """The network that the method works with."""
        ...

    @property
    def validation_networks(self) -> int:
        """The number of networks that are trained for the accuracy on validation images."""
        ...

    @property
    def test_networks(self) -> int:
        """The number of networks that are trained for the accuracy on test images."""
        ...


def students_under(protocol: protocols.Protocol, method: WithStudents) -> Students:
    """Return the judge of a method whose networks are trained under a protocol."""
    return Students(
        method.network,
        protocol,
        validation_networks=method.validation_networks,
        test_networks=method.test_networks,
    )
