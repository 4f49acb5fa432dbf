"""Squeezed networks, which learned the whole train split, and the images that methods of this family take of it."""

from __future__ import annotations

from kip.methods.contract import Needs
from kip.methods.decoupled.crops import Crops
from kip.methods.problem import Problem
from kip.networks.model import Model, Network, Variables
from kip.storage.artefacts import Store
from kip.training.squeeze import Squeeze, squeeze


def needs_of(images_per_class: int, crops: Crops | None) -> Needs:
    """Return the needs of a method: images of each class, for the set or for the crops that make it."""
    return Needs(images_per_class * (1 if crops is None else crops.factor**2), augmentation=False)


def squeeze_network(config: Squeeze, network: Network, problem: Problem, store: Store) -> tuple[Model, Variables]:
    """Return the trained network, made or found; see `kip.training.squeeze.squeeze`."""
    return squeeze(
        config,
        network,
        problem.inputs,
        problem.labels,
        problem.num_classes,
        seed=problem.seed,
        mirror_keeps_class=problem.mirror_keeps_class,
        store=store,
    )
