"""Matching training trajectories: images on which a student goes where experts went on natural images.

MTT, TESLA and FTD are its methods; DATM takes its functions. A step draws an expert and one of its epochs t. A student
begins with the expert's parameters theta_t, takes N steps of gradient descent on the learned images with the learned
rate r,

    theta <- theta - r grad CE(theta; A(x_b), y_b),

A one augmentation of DSA a batch, and images and r follow, by SGD with momentum, the gradient of

    L = |theta_N - theta*|^2 / |theta_t - theta*|^2,          theta* = the expert's parameters `expert_epochs` later,

by `kip.training.unrolled`. `gradient` chooses it:

- `exact`: that of L.
- `truncated`: TESLA's. It ignores that an image moves the parameters from which later steps begin, v_i = v_N in
  `kip.training.unrolled`, and so is exact for the last step alone. The identity behind TESLA holds where the parameters
  of the steps are constants. It needs the memory of all theta_i, as the exact gradient does.

The exported set is the moving average of the images where `average` is above 0 (FTD). The judge's networks are trained
under the protocol `MTT`, with the set's own rate r. The public code keeps the checkpoint that is best on test; here it
is chosen on validation images.

A student's batches are cut from random orders of the set. Where their size does not divide the set, the smaller batch
is the first of its order, as the public code takes it.

Reference: Cazenavette et al. 2022, "Dataset Distillation by Matching Training Trajectories", algorithm 1; public code,
`distill.py`. Cui et al. 2023, "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory" (TESLA).
"""

from __future__ import annotations

import dataclasses
from functools import reduce
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from pydantic import Field

from kip.config import value
from kip.errors import ConfigError, NonFiniteError
from kip.judges import Students
from kip.methods.checks import check_finite
from kip.methods.contract import LabelsAre, Method, Metrics, Needs
from kip.methods.descent import Parameters, begin, descend
from kip.methods.generator import Latents
from kip.methods.matching.experts import Experts, Trajectories, trajectories
from kip.methods.matching.images import (
    Start,
    check_fits,
    check_start,
    first_images,
    natural_start,
    parameters,
    pull_back,
    render,
)
from kip.methods.problem import Problem, State
from kip.methods.students import students_under
from kip.networks.model import CONVNET, Model, Network, Variables
from kip.precision import AnyArray
from kip.rng import generator, key
from kip.storage.artefacts import Store
from kip.training.augment import strategy_for
from kip.training.losses import Loss
from kip.training.protocols import PROTOCOLS, Protocol
from kip.training.unrolled import Draw, LearnedSet, Student, pull_back_path, unroll

Unaveraged = AnyArray | None
"""The images that students see, where those of the state are their moving average; None where there is no average."""


@value
class TrajectoryMatching(Method[Trajectories, Unaveraged]):
    """Base of methods that learn images on which a student goes where experts went."""

    images_per_class: Annotated[int, Field(ge=1)] = 1
    """The number of images of each class."""
    network: Network = CONVNET
    """The networks that are matched, and those that judge the set. They have no batch normalisation."""
    protocol: Protocol = PROTOCOLS["MTT"]
    """The protocol by which the judge's networks are trained. `MTT` trains them at the set's own rate."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """The number of networks that are trained for the accuracy on validation images, at each checkpoint."""
    test_networks: Annotated[int, Field(ge=1)] = 5
    """The number of networks that are trained for the accuracy on test images."""
    start: Start = "real"
    """The images at step 0: normal noise (`noise`), or natural images (`real`)."""
    latents: Latents | None = None
    """A generator of the user's own whose latents are learned in place of the images (GLaD). None learns the images."""
    experts: Experts = dataclasses.field(kw_only=True)
    """The experts that students follow."""
    expert_epochs: Annotated[int, Field(ge=1)] = 2
    """The number of epochs of the expert that the student must reproduce."""
    first_start: Annotated[int, Field(ge=0)] = 0
    """The first epoch of an expert that a student may begin at."""
    last_start: Annotated[int, Field(ge=1)] = 2
    """The epoch of an expert before which a student begins (exclusive)."""
    student_steps: Annotated[int, Field(ge=1)] = 50
    """The number of updates of the student, N."""
    student_batch: Annotated[int, Field(ge=1)] | None = None
    """The number of learned images in an update of the student. None means all of them."""
    gradient: Literal["exact", "truncated"] = dataclasses.field(kw_only=True)
    """The gradient of the matching loss: `exact`, or `truncated` as TESLA takes it."""
    siamese: bool = True
    """Augment by DSA the images that a student sees."""
    steps: Annotated[int, Field(ge=1)] = 5000
    """The largest number of updates of the images."""
    learning_rate: Annotated[float, Field(gt=0)] = 100.0
    """The learning rate of SGD for the images."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """The momentum of SGD, for the images and the student's rate."""
    student_rate: Annotated[float, Field(gt=0)] = 0.01
    """The learning rate of the student, r, before it is learned."""
    rate_learning_rate: Annotated[float, Field(ge=0)] = 1e-7
    """The learning rate of SGD for the student's rate. 0 leaves the student's rate as it is."""
    average: Annotated[float, Field(ge=0, lt=1)] = dataclasses.field(kw_only=True)
    """The weight of the past in the moving average of the images that is exported. 0 exports the images themselves."""

    @property
    def label(self) -> str:
        """The network."""
        return self.network.label

    @property
    def labels_are(self) -> LabelsAre:
        """Classes: labels are fixed."""
        return "classes"

    @property
    def judge(self) -> Students:
        """Fresh networks, trained under the protocol."""
        return students_under(self.protocol, self)

    @property
    def needs(self) -> Needs:
        """Images of each class; natural batches are the method's own, and never augmented by the experiment."""
        return Needs(self.images_per_class, augmentation=False)

    def __post_init__(self) -> None:
        check_start(self.start, self.latents)
        check_epochs(self.experts, self.expert_epochs, self.first_start, self.last_start)

    def step_images(self, num_classes: int) -> float:
        """Return the number of learned images in all the student's steps, whose gradient is differentiated again."""
        return 6 * self.student_steps * (self.student_batch or num_classes * self.images_per_class)

    def prepare(self, problem: Problem, store: Store) -> Trajectories:
        """Return the experts' trajectories, made or found.

        Raises:
            ConfigError, ShapeError: as `kip.methods.matching.images.check_fits`.
            NonFiniteError: if an expert diverges.
        """
        check_fits(problem, self.network, self.latents, method=self.name)
        return trajectories(self.experts, Model(self.network, problem.num_classes), problem, store)

    def init(self, problem: Problem, prepared: Trajectories) -> State[Unaveraged]:
        """Return step 0: natural images or noise, the first rate, and the images that are averaged."""
        first = first_images(problem, self.images_per_class, self.start, self.latents)
        state = with_rate(first, self.student_rate, self.average)
        return state._replace(optimizer=begin(_optimizer, self, self._parameters(state)))

    def step(
        self, problem: Problem, prepared: Trajectories, state: State[Unaveraged]
    ) -> tuple[State[Unaveraged], Metrics]:
        """Return the state after one update, with the loss before it and the student's rate.

        Raises:
            NonFiniteError: if the loss or a parameter is not finite, or the student's rate is not above zero.
        """
        before = self._parameters(state)
        loss, gradient = match_trajectory(
            student_of(problem, self.network, "soft_xent", siamese=self.siamese),
            LearnedSet(student_inputs(state), one_hot_of(state), before["rates"]),
            batches_of_step(problem, state, self.student_batch, self.student_steps),
            *begin_and_end(
                problem, prepared, self.experts, self.first_start, self.last_start, self.expert_epochs, step=state.step
            ),
            exact=self.gradient == "exact",
        )
        check_loss(loss)
        moves = {"rates": gradient.rates, **pull_back(problem, state, self.latents, gradient.images)}
        after, optimizer = descend(_optimizer, self, moves, state.optimizer, before)
        after = render(problem, state, self.latents, after)
        check_update(float(loss), after)
        new_state = write_back(state, after, self.average)
        metrics = {"loss": float(loss), "student_rate": float(before["rates"][0])}
        return new_state._replace(step=state.step + 1, latents=after.get("latents"), optimizer=optimizer), metrics

    def natural(self, initial: State[Unaveraged], exported: State[Unaveraged]) -> State[Unaveraged] | None:
        """Return the natural images that learning started from, with the exported rate; None where it was noise."""
        return natural_start(initial, exported, self.start)

    def _parameters(self, state: State[Unaveraged]) -> Parameters:
        """Return the arrays that the optimiser moves, by name."""
        images = {"images": student_inputs(state)} if self.latents is None else parameters(state, self.latents)
        return {**images, "rates": rates_of(state)}


def check_epochs(experts: Experts, expert_epochs: int, first_start: int, last_start: int) -> None:
    """Refuse epochs that a student cannot begin at.

    Raises:
        ConfigError: unless first_start < last_start <= experts.epochs - expert_epochs + 1.
    """
    last = experts.epochs - expert_epochs + 1
    if not first_start < last_start <= last:
        raise ConfigError(
            "first_start and last_start",
            got=f"{first_start} and {last_start}",
            expected=f"first_start < last_start <= {last}, experts.epochs - expert_epochs + 1",
        )


def with_rate(state: State[None], rate: float, average: float) -> State[Unaveraged]:
    """Return step 0 with the student's rate, and with the images beside their average if `average` is above 0."""
    state = state._replace(learning_rates=np.array([rate], np.float32))
    return state.with_owned(state.inputs if average else None)


def student_inputs(state: State[Unaveraged]) -> AnyArray:
    """Return the images that students see, before they are averaged."""
    return state.inputs if state.owned is None else state.owned


def rates_of(state: State[Unaveraged]) -> AnyArray:
    """Return the student's rate, (1,)."""
    assert state.learning_rates is not None
    return state.learning_rates


def one_hot_of(state: State[Unaveraged]) -> np.ndarray:
    """Return the one-hot classes of a set's images, (n, C)."""
    return np.eye(state.labels.shape[1], dtype=np.float32)[state.class_index]


def student_of(problem: Problem, network: Network, loss: Loss, *, siamese: bool) -> Student:
    """Return the loss of a student's step, on images that are augmented by DSA if `siamese`."""
    augment = strategy_for(problem.mirror_keeps_class) if siamese else "none"
    return Student(Model(network, problem.num_classes), loss, augment)


def begin_and_end(
    problem: Problem, prepared: Trajectories, experts: Experts, first: int, before: int, epochs: int, *, step: int
) -> tuple[Variables, Variables]:
    """Return the parameters that a student begins with, and those that it has to reach.

    Args:
        problem: gives the seed.
        prepared: the experts' trajectories.
        experts: their configuration.
        first: the first epoch that a student may begin at.
        before: the epoch before which it begins.
        epochs: epochs of the expert that the student must reproduce.
        step: of the run.
    """
    draw = generator(problem.seed, "expert of step", step)
    trajectory = prepared[int(draw.integers(experts.count))]
    begins = int(draw.integers(first, before))

    def after(epoch: int) -> Variables:
        return jax.tree.map(lambda leaf: jnp.asarray(leaf[epoch]), trajectory)

    return after(begins), after(begins + epochs)


def batches_of_step(problem: Problem, state: State[Unaveraged], batch: int | None, steps: int) -> list[Draw]:
    """Return the draw of each of a student's steps: batches of random orders of the set.

    Args:
        problem: gives the seed.
        state: the set.
        batch: images of an update; None for all.
        steps: updates of the student.
    """
    count = len(state.inputs)
    size = min(batch or count, count)
    draw, batches = generator(problem.seed, "student batches", state.step), []
    while len(batches) < steps:
        order = draw.permutation(count)
        ends = range(count % size or size, count + 1, size)
        batches += [order[max(0, end - size) : end] for end in ends]
    keys = jax.random.split(key(problem.seed, "student views", state.step), steps)
    return [Draw(indices, view) for indices, view in zip(batches, keys)]


def check_loss(loss: Array) -> None:
    """Refuse a loss that is not finite.

    Raises:
        NonFiniteError: if it is NaN or infinite.
    """
    if not np.isfinite(loss):
        raise NonFiniteError("the matching loss is NaN or infinite", remedy="Lower the learning rates.")


def check_update(loss: float, after: Parameters) -> None:
    """Refuse an update that is not finite, or a student's rate that is not above zero.

    Raises:
        NonFiniteError: if the loss or an array is not finite, or the rate is not above zero.
    """
    check_finite(loss, after)
    if not float(after["rates"][0]) > 0:
        raise NonFiniteError("the student's rate is not above zero", remedy="Lower rate_learning_rate.")


def write_back(state: State[Unaveraged], after: Parameters, average: float) -> State[Unaveraged]:
    """Return the state with `images` and `rates` after an update; the images are averaged if `average` is above 0."""
    images = after["images"]
    state = state._replace(learning_rates=after["rates"])
    if not average:
        return state._replace(inputs=images)
    return state._replace(inputs=average * jnp.asarray(state.inputs) + (1 - average) * images, owned=images)


def match_trajectory(
    student: Student, learned: LearnedSet, draws: list[Draw], begins: Variables, wanted: Variables, *, exact: bool
) -> tuple[Array, LearnedSet]:
    """Return L = |theta_N - theta*|^2 / |theta_0 - theta*|^2 and its gradient with respect to images, labels and rate.

    Args:
        student: the loss of a student's step.
        learned: images, labels and the rate.
        draws: the batch and the view of each step.
        begins: theta_0.
        wanted: theta*.
        exact: whether the gradient is that of L; otherwise TESLA's.
    """
    learned = LearnedSet(*(jnp.asarray(part) for part in learned))
    path = unroll(student, begins, learned, draws)
    loss, cotangent = _distance(path[-1], begins, wanted)
    return loss, pull_back_path(student, path, learned, draws, cotangent, through_parameters=exact)


@jax.jit
def _distance(params: Variables, begins: Variables, wanted: Variables) -> tuple[Array, Variables]:
    def squares(a: Variables, b: Variables) -> Array:
        parts = zip(jax.tree.leaves(a), jax.tree.leaves(b))
        return reduce(jnp.add, (jnp.sum((x - y) ** 2) for x, y in parts))

    return jax.value_and_grad(lambda params: squares(params, wanted) / squares(begins, wanted))(params)


def _optimizer(config: TrajectoryMatching) -> optax.GradientTransformation:
    """Return one rule for all parameters, each part with its own rate."""
    rules = {
        "images" if config.latents is None else "latents": optax.sgd(config.learning_rate, momentum=config.momentum),
        "rates": optax.sgd(config.rate_learning_rate, momentum=config.momentum),
    }
    return optax.multi_transform(rules, {name: name for name in rules})  # type: ignore[return-value]
