"""DATM, difficulty-aligned trajectory matching: soft labels, and a window of the experts' epochs that grows.

Learning starts from natural images that the first expert classifies right after its last epoch, taken in random order,
and others where these are too few. Labels are logits z and start as the mean of the last logits of those experts that
classify the image right; where none does, of all. Students minimise

    -sum_j softmax(z)_j log softmax(f)_j,

and z is learned with the images. In step k a student begins at an epoch in

    first_start <= t < min(last_start, start_before + int((last_start - start_before) k / window_steps)),

so that what is easy comes first. Steps whose loss is above `threshold` change nothing.

`learn_labels=False` is the same with the classes as labels, for comparison.

Reference: Guo et al. 2024, "Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching"; public
code, `distill/DATM.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import jax
import numpy as np
import optax
from pydantic import Field

from kip.config import value
from kip.errors import ConfigError
from kip.judges import Students
from kip.methods.contract import LabelsAre
from kip.methods.matching.experts import Experts, Trajectories
from kip.methods.matching.mtt import MTT
from kip.methods.problem import Problem, State
from kip.rng import generator
from kip.training.predict import logits
from kip.training.protocols import PROTOCOLS, Protocol
from kip.training.unrolled import Student

PROTOCOL = dataclasses.replace(
    PROTOCOLS["MTT"], name="DATM", paper="Guo et al. 2024", labels="own", loss="kl", batch=128
)
"""MTT's protocol with the set's labels as logits, in batches of 128."""


@value
class DATM(MTT):
    """Difficulty-aligned trajectory matching: learn images and soft labels."""

    experts: Experts = Experts(epochs=100, sharpness=0.01, balance=0.3)
    """The experts."""
    last_start: Annotated[int, Field(ge=1)] = 4
    """The epoch before which a student begins (exclusive), once the window has grown."""
    start_before: Annotated[int, Field(ge=1)] | None = None
    """The same at step 0; None: the window does not grow."""
    window_steps: Annotated[int, Field(ge=1)] = 1000
    """Steps until the window has grown."""
    student_steps: Annotated[int, Field(ge=1)] = 80
    """N."""
    learn_labels: bool = True
    """Whether labels are soft and learned; else they are the classes."""
    label_learning_rate: Annotated[float, Field(gt=0)] = 5.0
    """SGD's, for the labels."""
    label_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """SGD's, for the labels."""
    threshold: Annotated[float, Field(gt=0)] = 1.1
    """The loss above which a step changes nothing."""
    steps: Annotated[int, Field(ge=1)] = 10_000
    """Updates at the most."""
    protocol: Protocol = PROTOCOL
    """How networks are trained that judge the set; with the set's rate and, unless the classes are kept, its labels."""
    name: Literal["datm"] = "datm"  # type: ignore[assignment]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.latents is not None:
            raise ConfigError("latents with datm", got=self.latents.generator, expected="none: it starts from images")

    @property
    def labels_are(self) -> LabelsAre:
        """Learned scores, or the classes."""
        return "scores" if self.learn_labels else "classes"

    @property
    def judge(self) -> Students:
        """Fresh networks, trained under the protocol with the set's rate and labels."""
        judge = super().judge
        if self.learn_labels:
            return judge
        return dataclasses.replace(judge, protocol=dataclasses.replace(self.protocol, labels="classes", loss="xent"))

    def init(self, problem: Problem, prepared: Trajectories) -> State:
        """Return step 0: natural images that the first expert knows, with the experts' labels."""
        model = self.model(problem)
        last = jax.tree.map(lambda leaf: leaf[-1], prepared[0])
        right = logits(model, {"params": last}, problem.inputs).argmax(1) == problem.labels
        draw, chosen = generator(problem.seed, "images of right experts"), []
        for label in range(problem.num_classes):
            members = draw.permutation(np.flatnonzero(problem.labels == label))
            known_first = members[np.argsort(~right[members], kind="stable")]
            chosen += known_first[: self.images_per_class].tolist()
        class_index = problem.labels[chosen]
        state = problem.natural_support(self.images_per_class)._replace(
            inputs=problem.inputs[chosen],
            class_index=class_index,
            labels=(np.eye(problem.num_classes) - 1 / problem.num_classes)[class_index].astype(np.float32),
            statistics=problem.transform.statistics(problem.pixels[chosen]),
        )
        if self.learn_labels:
            state = state._replace(labels=self._expert_labels(problem, prepared, state))
        return self._begun(state)

    def natural(self, initial: State, exported: State) -> State | None:
        """Return the images that learning started from, with the first labels and the exported set's rate."""
        return initial._replace(learning_rates=exported.learning_rates)

    def more_rules(self) -> dict[str, optax.GradientTransformation]:
        """Return the labels' optimiser, where they are learned."""
        return (
            {"labels": optax.sgd(self.label_learning_rate, momentum=self.label_momentum)} if self.learn_labels else {}
        )

    def _expert_labels(self, problem: Problem, prepared: Trajectories, state: State) -> np.ndarray:
        """Return the mean logits of the experts that are right, (n, C); of all where none is."""
        model, outputs = self.model(problem), []
        for expert in range(self.experts.count):
            last = jax.tree.map(lambda leaf: leaf[-1], prepared[expert])
            outputs.append(logits(model, {"params": last}, np.asarray(state.inputs)))
        stacked = np.stack(outputs)
        right = stacked.argmax(2) == state.class_index
        weight = np.where(right.any(0), right, True).astype(np.float32)[..., None]
        return ((stacked * weight).sum(0) / weight.sum(0)).astype(np.float32)

    def _student(self, problem: Problem) -> Student:
        student = super()._student(problem)
        return dataclasses.replace(student, loss="kl") if self.learn_labels else student

    def _student_labels(self, state: State, learned: dict[str, Any]) -> Any:
        return learned["labels"] if self.learn_labels else super()._student_labels(state, learned)

    def _starts(self, step: int) -> tuple[int, int]:
        if self.start_before is None:
            return self.first_start, self.last_start
        grown = self.start_before + int((self.last_start - self.start_before) * step / self.window_steps)
        return self.first_start, min(self.last_start, grown)

    def _skips(self, loss: float) -> bool:
        return loss > self.threshold

    def _learned(self, state: State) -> dict[str, Any]:
        learned = super()._learned(state)
        return {**learned, "labels": state.labels} if self.learn_labels else learned

    def _moved(self, state: State, after: dict[str, Any]) -> State:
        moved = super()._moved(state, after)
        return moved._replace(labels=after["labels"]) if self.learn_labels else moved
