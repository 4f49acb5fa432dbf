"""Squeezing for a method: `kip.training.squeeze` on a problem's train images."""

from __future__ import annotations

from kip.artefacts import Store
from kip.methods.problem import Problem
from kip.networks.model import Model, Network, Variables
from kip.training.squeeze import Squeeze, squeeze


def squeezed(config: Squeeze, network: Network, problem: Problem, store: Store) -> tuple[Model, Variables]:
    """Return the trained network, made or found; see `kip.training.squeeze.squeeze`."""
    return squeeze(
        config, network, problem.inputs, problem.labels, problem.num_classes, seed=problem.seed,
        mirror_keeps_class=problem.mirror_keeps_class, store=store,
    )  # fmt: skip
