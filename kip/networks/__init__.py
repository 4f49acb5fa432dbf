"""Finite networks: one table of architectures, for training on distilled sets and for methods that learn with them."""

from kip.networks.architectures import NETWORKS
from kip.networks.model import Model, Network, Outputs, network

__all__ = ["NETWORKS", "Model", "Network", "Outputs", "network"]
