"""The base of methods that recover images, a group at a time, from what trained networks know of the train split.

A method has these options and its own, and says which networks it squeezes and how many images of a class are recovered
together. `kip.methods.decoupled.groups` has the functions of its steps.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from kip.config import value
from kip.errors import ConfigError
from kip.judges import Students
from kip.methods.contract import LabelsAre, Method, Needs, Prepared
from kip.methods.decoupled import groups
from kip.methods.decoupled.crops import Crops
from kip.methods.decoupled.groups import Group, Pace, Start
from kip.methods.decoupled.squeeze import needs_of, squeeze_network
from kip.methods.problem import Owned, Problem, State
from kip.networks.model import CONVNET, Model, Network
from kip.rng import generator
from kip.storage.artefacts import Store
from kip.training.protocols import PROTOCOLS, Protocol
from kip.training.squeeze import Squeeze


@value
class Decoupled(Method[Prepared, Owned]):
    """The base of methods that recover images from trained networks."""

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
    start: Start = dataclasses.field(kw_only=True)
    """The images that recovery begins with: normal `noise`, `real` natural images, or `patches`, the crops of natural
    images that RDED would choose."""
    iterations: Annotated[int, Field(ge=1)] = dataclasses.field(kw_only=True)
    """The number of steps of Adam for each group of images."""
    learning_rate: Annotated[float, Field(gt=0)] = dataclasses.field(kw_only=True)
    """The learning rate of Adam at its highest; it falls to zero as a cosine within each group."""
    strength: Annotated[float, Field(ge=0)] = 0.01
    """The weight of the statistics' distance, beside the cross-entropy."""
    spread: bool = False
    """Spread the images of a group over the devices of the machine, as many as divide their number. Results differ from
    those of one device in their last digits."""

    together: ClassVar[int]
    """The number of images of each class that are recovered together; it divides `images_per_class`. A class has it, or
    an option of this name."""

    @property
    def label(self) -> str:
        """The network."""
        return self.network.label

    @property
    def labels_are(self) -> LabelsAre:
        """Classes: labels are fixed."""
        return "classes"

    @property
    @abc.abstractmethod
    def networks(self) -> tuple[Network, ...]:
        """The squeezed networks, in their order."""

    @property
    def judge(self) -> Students:
        """Fresh networks, trained under the protocol; the squeezed networks are its teachers."""
        return Students(
            self.evaluation_network,
            self.protocol,
            validation_networks=self.validation_networks,
            test_networks=self.test_networks,
            teachers=self.networks,
            squeeze=self.squeeze,
        )

    @property
    def needs(self) -> Needs:
        """Images of each class: for the set, or for the crops that it begins as."""
        return needs_of(self.images_per_class, self.first_crops)

    @property
    def steps(self) -> int:
        """Iterations of all groups."""
        return self.images_per_class // self.together * self.iterations

    @property
    def schedule_ends(self) -> bool:
        """The cosine ends with each group, wherever the run ends."""
        return True

    @property
    def pace(self) -> Pace:
        """The steps of a group."""
        return Pace(self.learning_rate, self.iterations)

    @property
    def first_crops(self) -> Crops | None:
        """The choice of the crops that recovery starts from; None where it starts from noise or natural images."""
        return self.crops if self.start == "patches" else None

    def natural(self, initial: State[Owned], exported: State[Owned]) -> State[Owned] | None:
        """Return the natural images that recovery started from; None if it started from noise or crops."""
        return initial if self.start == "real" else None

    def check(self) -> None:
        """Refuse networks without batch normalisation, and groups that do not divide the images of a class.

        Raises:
            ConfigError: if there are such.
        """
        for network in self.networks:
            if not network.batch_normalised:
                raise ConfigError(
                    "network",
                    got=network.label,
                    expected="batch normalisation, whose statistics are recovered",
                    remedy="Add `norm=batch` to the network.",
                )
        if self.images_per_class % self.together:
            expected = f"a divisor of images_per_class, {self.images_per_class}"
            raise ConfigError("together", got=self.together, expected=expected)

    def prepare_networks(self, problem: Problem, store: Store) -> groups.Prepared:
        """Return the squeezed networks, and the crops if recovery starts from them, made or found.

        Raises:
            ConfigError: if preprocessing mixes pixels, which then have no range.
            ShapeError: if images cannot be cut into crops.
        """
        problem.pixel_range()
        variables = tuple(squeeze_network(self.squeeze, network, problem, store)[1] for network in self.networks)
        if self.first_crops is None:
            return groups.Prepared(variables, None)
        model = Model(self.networks[0], problem.num_classes)
        by_class = self.first_crops.of_classes(model, variables[0], problem, self.images_per_class, store)
        patches = by_class.reshape(-1, *by_class.shape[2:])
        return groups.Prepared(variables, patches[self._order(problem.num_classes)])

    def first_state(self, problem: Problem, prepared: groups.Prepared) -> State[None]:
        """Return step 0: groups of images of every class, and the optimiser of the first group."""
        state = problem.natural_support(self.images_per_class)
        order = np.argsort(state.class_index, kind="stable")[self._order(problem.num_classes)]
        inputs = state.inputs[order]
        if self.start == "noise":
            noise = generator(problem.seed, "initial noise").standard_normal(inputs.shape)
            inputs = np.clip(noise, *problem.pixel_range()).astype(np.float32)
        elif self.start == "patches":
            assert prepared.patches is not None
            inputs = prepared.patches
        return state._replace(
            inputs=inputs,
            labels=state.labels[order],
            class_index=state.class_index[order],
            statistics=state.statistics[order],
            optimizer=groups.fresh_adam(self.pace, inputs[: self.together * problem.num_classes]),
        )

    def group_at(self, problem: Problem, step: int) -> Group:
        """Return the group that a step of the run recovers."""
        return groups.group_of(step, problem.num_classes, iterations=self.iterations, together=self.together)

    def enter_group(self, problem: Problem, state: State[Owned]) -> tuple[Group, State[Owned]]:
        """Return the group of the next step, and the state, with a new optimiser where another group begins."""
        group = self.group_at(problem, state.step)
        if group.is_new:
            state = state._replace(optimizer=groups.fresh_adam(self.pace, state.inputs[group.rows]))
        return group, state

    def _order(self, num_classes: int) -> np.ndarray:
        """Return the places of images sorted by class, group after group, each in the order of the classes."""
        places = np.arange(num_classes * self.images_per_class).reshape(num_classes, -1, self.together)
        return places.transpose(1, 0, 2).reshape(-1)
