"""The judge of sets made for plain training: fresh networks are trained on the set under a named protocol."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import jax.numpy as jnp
import numpy as np
from pydantic import Field

from kip.config import value
from kip.errors import ConfigError
from kip.judges.judge import DrawingJudge, Part, Question, Support, Tools, purpose
from kip.networks.model import Model, Network
from kip.rng import key
from kip.storage.artefacts import Store
from kip.training.post_training import post_train
from kip.training.predict import are_right
from kip.training.protocols import Protocol
from kip.training.squeeze import Squeeze, squeeze
from kip.training.supervised import Labeller

LEAST_EPOCHS = 20
"""The shortest training that tells sets apart."""


@value
class Students(DrawingJudge):
    """Fresh networks, trained under a protocol; each network is one row of the result.

    Where the protocol takes the set's own learning rate, as `MTT` does, the set has to have one. The images that are
    classified choose nothing. Teachers, where the protocol takes their labels, learned the train split; they are found
    where a method has squeezed the same networks.
    """

    network: Network
    """The network that is trained on the set."""
    protocol: Protocol
    """The protocol by which the judge's networks are trained."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """The number of networks that are trained for the accuracy on validation images."""
    test_networks: Annotated[int, Field(ge=1)] = 5
    """The number of networks that are trained for the accuracy on test images."""
    teachers: tuple[Network, ...] = ()
    """The networks that label the set, where the protocol asks for it; their logits are averaged."""
    squeeze: Squeeze = Squeeze()
    """The training by which teachers learn the train split."""
    kind: Literal["students"] = "students"

    def __post_init__(self) -> None:
        if self.protocol.needs_teacher and not self.teachers:
            raise ConfigError(
                f"protocol {self.protocol.name} of a judge",
                got="no teacher",
                expected="networks that label the set",
                remedy="Judge by hard labels in the run, and with a teacher by `kip compare`.",
            )

    @property
    def label(self) -> str:
        """The network and the protocol."""
        return f"{self.network.label} ({self.protocol.label})"

    def trained_images(self, part: Part, size: int) -> int:
        """Return the number of images in all updates; see `Judge`."""
        return self.count_of(part) * self.protocol.epochs * size

    def within(self, images: float, size: int) -> Students:
        """Return the judge with fewer networks and epochs for validation, `LEAST_EPOCHS` at least."""
        epochs, networks = self.share_out(images, size, least=LEAST_EPOCHS, most=self.protocol.epochs)
        protocol = dataclasses.replace(self.protocol, epochs=epochs)
        return dataclasses.replace(self, protocol=protocol, validation_networks=networks)

    def are_right(self, support: Support, question: Question, tools: Tools) -> np.ndarray:
        """Return which images each network classifies right, (networks, m)."""
        model = Model(self.network, support.labels.shape[1])
        keys = jnp.stack([key(tools.seed, purpose(question), i) for i in range(self.count(question))])
        # Labels of views belong to this training alone: a store that stayed would grow with every checkpoint.
        with tempfile.TemporaryDirectory() as folder:
            trained = post_train(
                model,
                self.protocol,
                support.inputs,
                support.labels,
                keys,
                seed=tools.seed,
                rate=support.learning_rate,
                mirror_keeps_class=tools.mirror_keeps_class,
                teachers=self._labellers(support, tools),
                store=Store(Path(folder), show_progress=tools.show_progress),
                show_progress=tools.show_progress,
            )
        return np.stack([are_right(model, each, question.inputs, question.classes) for each in trained])

    def _labellers(self, support: Support, tools: Tools) -> list[Labeller]:
        """Return the teachers, made or found; an empty list where the protocol needs none."""
        if not self.protocol.needs_teacher:
            return []
        return [
            Labeller(
                *squeeze(
                    self.squeeze,
                    network,
                    *tools.train,
                    support.labels.shape[1],
                    seed=tools.seed,
                    mirror_keeps_class=tools.mirror_keeps_class,
                    store=Store(show_progress=tools.show_progress),
                )
            )
            for network in self.teachers
        ]
