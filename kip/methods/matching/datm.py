"""DATM, difficulty-aligned trajectory matching: soft labels, and a window of the experts' epochs that grows.

Learning starts from natural images, drawn in a random order from those that the first expert classifies right after
its last epoch, and from the others where these are too few. Labels are logits z. They start as the mean of the last
logits of the experts that classify the image right, or of all experts where none does. Students minimise

    -sum_j softmax(z)_j log softmax(f)_j,

and z is learned with the images. In step k a student begins at an epoch in

    first_start <= t < min(last_start, start_before + int((last_start - start_before) k / window_steps)),

so that easy epochs come first. Steps whose loss is above `threshold` change nothing.

`learn_labels=False` is the same with the classes as labels, for comparison.

Reference: Guo et al. 2024, "Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching"; public
code, `distill/DATM.py`.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import jax
import numpy as np
import optax
from pydantic import Field
from typing_extensions import final

from kip.config import value
from kip.judges import Students
from kip.methods.checks import refuse_batch_norm
from kip.methods.contract import LabelsAre, Method, Metrics, Needs
from kip.methods.descent import Parameters, begin, descend
from kip.methods.matching import trajectory_matching as matching
from kip.methods.matching.experts import Experts, Trajectories, trajectories
from kip.methods.matching.trajectory_matching import Unaveraged
from kip.methods.problem import Problem, State
from kip.methods.students import students_under
from kip.networks.model import CONVNET, Model, Network
from kip.precision import AnyArray
from kip.rng import generator
from kip.storage.artefacts import Store
from kip.training.predict import logits
from kip.training.protocols import PROTOCOLS, Protocol
from kip.training.unrolled import LearnedSet

PROTOCOL = dataclasses.replace(
    PROTOCOLS["MTT"], name="DATM", paper="Guo et al. 2024", labels="own", loss="kl", batch=128
)
"""MTT's protocol with the set's labels as logits, in batches of 128."""


@final
@value
class DATM(Method[Trajectories, Unaveraged]):
    """Difficulty-aligned trajectory matching: learn images and soft labels."""

    images_per_class: Annotated[int, Field(ge=1)] = 1
    """The number of images of each class."""
    network: Network = CONVNET
    """The networks that are matched, and those that judge the set. They have no batch normalisation."""
    protocol: Protocol = PROTOCOL
    """The protocol by which the judge's networks are trained, with the set's rate and its labels. With `learn_labels`
    off, classes take the place of the labels."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """The number of networks that are trained for the accuracy on validation images, at each checkpoint."""
    test_networks: Annotated[int, Field(ge=1)] = 5
    """The number of networks that are trained for the accuracy on test images."""
    experts: Experts = Experts(epochs=100, sharpness=0.01, balance=0.3)
    """The experts that students follow."""
    expert_epochs: Annotated[int, Field(ge=1)] = 2
    """The number of epochs of the expert that the student must reproduce."""
    first_start: Annotated[int, Field(ge=0)] = 0
    """The first epoch of an expert that a student may begin at."""
    last_start: Annotated[int, Field(ge=1)] = 4
    """The epoch of an expert before which a student begins (exclusive), once the window has grown."""
    start_before: Annotated[int, Field(ge=1)] | None = None
    """The epoch of an expert before which a student begins (exclusive) at step 0. None means that the window does not
    grow."""
    window_steps: Annotated[int, Field(ge=1)] = 1000
    """The number of steps until the window has grown."""
    student_steps: Annotated[int, Field(ge=1)] = 80
    """The number of updates of the student, N."""
    student_batch: Annotated[int, Field(ge=1)] | None = None
    """The number of learned images in an update of the student. None means all of them."""
    gradient: Literal["exact", "truncated"] = "exact"
    """The gradient of the matching loss: `exact`, or `truncated` as TESLA takes it."""
    siamese: bool = True
    """Augment by DSA the images that a student sees."""
    steps: Annotated[int, Field(ge=1)] = 10_000
    """The largest number of updates."""
    learning_rate: Annotated[float, Field(gt=0)] = 100.0
    """The learning rate of SGD for the images."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """The momentum of SGD, for the images and the student's rate."""
    learn_labels: bool = True
    """Learn soft labels. Off keeps the classes as labels."""
    label_learning_rate: Annotated[float, Field(gt=0)] = 5.0
    """The learning rate of SGD for the labels."""
    label_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """The momentum of SGD for the labels."""
    student_rate: Annotated[float, Field(gt=0)] = 0.01
    """The learning rate of the student, r, before it is learned."""
    rate_learning_rate: Annotated[float, Field(ge=0)] = 1e-7
    """The learning rate of SGD for the student's rate. 0 leaves the student's rate as it is."""
    threshold: Annotated[float, Field(gt=0)] = 1.1
    """The loss above which a step changes nothing."""
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The weight of the past in the moving average of the images that is exported. 0 exports the images themselves."""
    name: Literal["datm"] = "datm"

    @property
    def label(self) -> str:
        """The network."""
        return self.network.label

    @property
    def labels_are(self) -> LabelsAre:
        """Learned scores, or the classes of natural images."""
        return "scores" if self.learn_labels else "classes"

    @property
    def needs(self) -> Needs:
        """Images of each class; natural batches are the method's own, and never augmented by the experiment."""
        return Needs(self.images_per_class, augmentation=False)

    def __post_init__(self) -> None:
        matching.check_epochs(self.experts, self.expert_epochs, self.first_start, self.last_start)

    @property
    def judge(self) -> Students:
        """Fresh networks, trained under the protocol with the set's rate and labels."""
        of_classes = dataclasses.replace(self.protocol, labels="classes", loss="xent")
        return students_under(self.protocol if self.learn_labels else of_classes, self)

    def step_images(self, num_classes: int) -> float:
        """Return the number of learned images in all the student's steps, whose gradient is differentiated again."""
        return 6 * self.student_steps * (self.student_batch or num_classes * self.images_per_class)

    def prepare(self, problem: Problem, store: Store) -> Trajectories:
        """Return the experts' trajectories, made or found.

        Raises:
            ConfigError: if the network has batch normalisation.
            ShapeError: if the images are too small for it.
            NonFiniteError: if an expert diverges.
        """
        refuse_batch_norm(self.network, f"the network of {self.name}")
        model = Model(self.network, problem.num_classes)
        model.check_images(*problem.inputs.shape[1:3])
        return trajectories(self.experts, model, problem, store)

    def init(self, problem: Problem, prepared: Trajectories) -> State[Unaveraged]:
        """Return step 0: natural images that the first expert knows, with the experts' labels."""
        model = Model(self.network, problem.num_classes)
        last = jax.tree.map(lambda leaf: leaf[-1], prepared[0])
        right = logits(model, {"params": last}, problem.inputs).argmax(1) == problem.labels
        draw, chosen = generator(problem.seed, "images of right experts"), []
        for label in range(problem.num_classes):
            members = draw.permutation(np.flatnonzero(problem.labels == label))
            known_first = members[np.argsort(~right[members], kind="stable")]
            chosen += known_first[: self.images_per_class].tolist()
        class_index = problem.labels[chosen]
        inputs = problem.inputs[chosen]
        classes = (np.eye(problem.num_classes) - 1 / problem.num_classes)[class_index].astype(np.float32)
        state = problem.natural_support(self.images_per_class)._replace(
            inputs=inputs,
            class_index=class_index,
            labels=self._expert_labels(model, prepared, inputs, class_index) if self.learn_labels else classes,
            statistics=problem.transform.statistics(problem.pixels[chosen]),
        )
        begun = matching.with_rate(state, self.student_rate, self.average)
        return begun._replace(optimizer=begin(_optimizer, self, self._parameters(begun)))

    def step(
        self, problem: Problem, prepared: Trajectories, state: State[Unaveraged]
    ) -> tuple[State[Unaveraged], Metrics]:
        """Return the state after one update, with the loss before it and the student's rate.

        Raises:
            NonFiniteError: if the loss or a parameter is not finite, or the student's rate is not above zero.
        """
        before, loss_name = self._parameters(state), "kl" if self.learn_labels else "soft_xent"
        loss, gradient = matching.match_trajectory(
            matching.student_of(problem, self.network, loss_name, siamese=self.siamese),
            LearnedSet(before["images"], before.get("labels", matching.one_hot_of(state)), before["rates"]),
            matching.batches_of_step(problem, state, self.student_batch, self.student_steps),
            *matching.begin_and_end(
                problem,
                prepared,
                self.experts,
                self.first_start,
                self.end_of_window(state.step),
                self.expert_epochs,
                step=state.step,
            ),
            exact=self.gradient == "exact",
        )
        matching.check_loss(loss)
        metrics = {"loss": float(loss), "student_rate": float(before["rates"][0])}
        if float(loss) > self.threshold:
            return state._replace(step=state.step + 1), metrics
        moves = {name: gradient._asdict()[name] for name in before}
        after, optimizer = descend(_optimizer, self, moves, state.optimizer, before)
        matching.check_update(float(loss), after)
        new_state = matching.write_back(state, after, self.average)
        labels = after.get("labels", state.labels)
        return new_state._replace(step=state.step + 1, labels=labels, optimizer=optimizer), metrics

    def natural(self, initial: State[Unaveraged], exported: State[Unaveraged]) -> State[Unaveraged]:
        """Return the images that learning started from, with the first labels and the exported set's rate."""
        return initial._replace(learning_rates=exported.learning_rates)

    def end_of_window(self, step: int) -> int:
        """Return the epoch of an expert before which a student begins in a step."""
        if self.start_before is None:
            return self.last_start
        grown = self.start_before + int((self.last_start - self.start_before) * step / self.window_steps)
        return min(self.last_start, grown)

    def _expert_labels(
        self, model: Model, prepared: Trajectories, inputs: AnyArray, class_index: np.ndarray
    ) -> np.ndarray:
        """Return the mean logits of the experts that are right, (n, C), or of all where none is."""
        outputs = []
        for expert in range(self.experts.count):
            last = jax.tree.map(lambda leaf: leaf[-1], prepared[expert])
            outputs.append(logits(model, {"params": last}, np.asarray(inputs)))
        stacked = np.stack(outputs)
        right = stacked.argmax(2) == class_index
        weight = np.where(right.any(0), right, True).astype(np.float32)[..., None]
        return ((stacked * weight).sum(0) / weight.sum(0)).astype(np.float32)

    def _parameters(self, state: State[Unaveraged]) -> Parameters:
        """Return the arrays that the optimiser moves, by name."""
        fixed = {"images": matching.student_inputs(state), "rates": matching.rates_of(state)}
        return {**fixed, "labels": state.labels} if self.learn_labels else fixed


def _optimizer(config: DATM) -> optax.GradientTransformation:
    """Return one rule for all parameters, each part with its own rate, and labels with their own momentum."""
    rules = {
        "images": optax.sgd(config.learning_rate, momentum=config.momentum),
        "rates": optax.sgd(config.rate_learning_rate, momentum=config.momentum),
    }
    if config.learn_labels:
        rules["labels"] = optax.sgd(config.label_learning_rate, momentum=config.label_momentum)
    return optax.multi_transform(rules, {name: name for name in rules})  # type: ignore[return-value]
