"""Finite networks: one table of architectures, for training on distilled sets and for methods that learn with them."""

from kip.networks.model import NETWORKS, Model, Network, Outputs, network

__all__ = ["NETWORKS", "Model", "Network", "Outputs", "network"]
