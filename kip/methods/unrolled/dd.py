"""DD, the original dataset distillation: images, and the learning rate of every step, learned through the training.

A network takes `epochs` passes of one step for each of the set's batches, in a fixed order,

    theta_{i+1} = theta_i - r_i grad CE(theta_i; x_b, y_b),       b = i modulo the number of batches,

and the images x and the rates r follow, by Adam, the gradient of the loss of theta_N on a batch of natural images,
through all steps (`kip.training.unrolled`). Rates are the softplus of learned numbers, so that they stay above zero.
With `learn_labels`, the labels are learned too: SLDD.

Initial values are drawn anew in each step (`random`: the set works for any network of its kind), or are the same in all
(`fixed`: the set works for these values). A set is judged by networks that take its own steps.

The public code of DD draws images from a normal distribution and halves Adam's rate every 40 of its 400 epochs.

Reference: Wang et al. 2018, "Dataset Distillation"; Sucholutsky and Schonlau 2021, "Soft-Label Dataset Distillation and
Text Dataset Distillation"; both as compared in Bohdal et al. 2020, Table 7.
"""

from __future__ import annotations

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from pydantic import Field
from typing_extensions import final

from kip.config import value
from kip.judges import LearnedDescent
from kip.judges.descent import fixed_key, in_turn
from kip.methods.checks import check_finite, refuse_batch_norm
from kip.methods.contract import Metrics
from kip.methods.descent import Parameters, begin, descend
from kip.methods.problem import Problem, State
from kip.methods.targets import TargetMethod
from kip.networks.model import Model, Network, Variables, fresh
from kip.precision import AnyArray
from kip.rng import generator, key
from kip.storage.artefacts import Store
from kip.training.microbatches import gradient_in_parts
from kip.training.unrolled import LearnedSet, Student, pull_back_path, unroll


@final
@value
class DD(TargetMethod[None, AnyArray]):
    """The original dataset distillation: learn images and the rate of every step, and labels too if asked."""

    images_per_class: Annotated[int, Field(ge=1)] = 10
    """The number of images of each class, and of batches of one image per class."""
    network: Network = Network("LeNet", w_std=1.0)
    """The network, without batch normalisation. The deviation of its weights is 1 over the root of their inputs by
    default, close to the public code's (Xavier's): with PyTorch's, networks learn little in so few steps."""
    epochs: Annotated[int, Field(ge=1)] = 3
    """The number of passes over the batches in a training."""
    initial: Literal["random", "fixed"] = "random"
    """The networks' initial values: drawn anew in each step (`random`), or the same in all (`fixed`)."""
    networks: Annotated[int, Field(ge=1)] = 1
    """The number of initial values that a step averages over. `fixed` has one."""
    learn_labels: bool = False
    """Learn labels with the images (SLDD). Off keeps one-hot labels."""
    start: Literal["noise", "real"] = "noise"
    """The images at step 0: normal noise (`noise`), or natural images (`real`)."""
    first_rate: Annotated[float, Field(gt=0)] = 0.02
    """The learning rate of every step of a training, before it is learned."""
    target_batch: Annotated[int, Field(ge=1)] | None = 1024
    """The number of natural images of each step, which give the loss of the trained network. None means the whole train
    set."""
    steps: Annotated[int, Field(ge=1)] = 20_000
    """The largest number of updates."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """The highest learning rate of Adam."""
    halve_every: Annotated[int, Field(ge=1)] | None = None
    """The number of updates after which the learning rate of Adam is halved, again and again. None keeps it."""
    clip: Annotated[float, Field(gt=0)] | None = 0.2
    """The largest norm of a network's gradient with respect to all parameters of the set. A longer one is shortened to
    it: a few networks in a hundred have gradients a hundred times as long as the others'. None leaves gradients as
    they are."""
    validation_networks: Annotated[int, Field(ge=1)] = 5
    """The number of networks that are trained for the accuracy on validation images, at each checkpoint."""
    test_networks: Annotated[int, Field(ge=1)] = 20
    """The number of networks that are trained for the accuracy on test images."""
    name: Literal["dd"] = "dd"

    @property
    def judge(self) -> LearnedDescent:
        """Networks that take the set's own steps."""
        return LearnedDescent(
            self.network,
            self.images_per_class,
            initial=self.initial,
            validation_networks=self.validation_networks,
            test_networks=self.test_networks,
        )

    def prepare(self, problem: Problem, store: Store) -> None:
        """Check that the images fit the network; nothing is made.

        Raises:
            ConfigError: if the network has batch normalisation.
            ShapeError: if the images are too small for it.
        """
        refuse_batch_norm(self.network, "the network of dd")
        Model(self.network, problem.num_classes).check_images(*problem.inputs.shape[1:3])

    def init(self, problem: Problem, prepared: None) -> State[AnyArray]:
        """Return step 0: noise or natural images in batches of one image a class, one-hot labels, equal rates."""
        state = problem.natural_support(self.images_per_class)
        by_class = np.argsort(state.class_index, kind="stable").reshape(problem.num_classes, -1)
        order = by_class.T.reshape(-1)
        images, class_index = state.inputs[order], state.class_index[order]
        if self.start == "noise":
            images = generator(problem.seed, "initial noise").standard_normal(images.shape).astype(np.float32)
        raw = np.full(self.epochs * self.images_per_class, np.log(np.expm1(self.first_rate)), np.float32)
        begun: State[AnyArray] = state._replace(
            inputs=images,
            labels=np.eye(problem.num_classes, dtype=np.float32)[class_index],
            class_index=class_index,
            statistics=state.statistics[order],
            learning_rates=np.asarray(jax.nn.softplus(raw)),
        ).with_owned(raw)
        return begun._replace(optimizer=begin(_optimizer, self, self._parameters(begun)))

    def step(self, problem: Problem, prepared: None, state: State[AnyArray]) -> tuple[State[AnyArray], Metrics]:
        """Return the state after one update, with the loss on the target batch before it.

        Raises:
            NonFiniteError: if the loss or a parameter is not finite.
        """
        target = problem.target_batch(self.target_batch, step=state.step)
        student = Student(Model(self.network, problem.num_classes), "soft_xent")
        learned = self._parameters(state)
        losses, accuracies, gradients = [], [], []
        for params in self._initial_values(problem, state.step, student.model):
            loss, accuracy, gradient = gradient_through_training(
                student,
                params,
                LearnedSet(state.inputs, state.labels, learned["rates"]),
                self.images_per_class,
                target.images,
                target.labels.argmax(1),
            )
            losses.append(loss)
            accuracies.append(accuracy)
            gradients.append(self._clip({name: gradient._asdict()[name] for name in learned}))
        mean = jax.tree.map(lambda *parts: sum(parts) / len(parts), *gradients)
        after, optimizer = descend(_optimizer, self, mean, state.optimizer, learned)
        loss = float(np.mean(losses))
        check_finite(loss, after)
        new_state = state._replace(
            step=state.step + 1,
            inputs=after["images"],
            labels=after.get("labels", state.labels),
            owned=after["rates"],
            learning_rates=jax.nn.softplus(after["rates"]),
            optimizer=optimizer,
        )
        return new_state, {"loss": loss, "batch_accuracy": float(np.mean(accuracies))}

    def natural(self, initial: State[AnyArray], exported: State[AnyArray]) -> State[AnyArray] | None:
        """Return the natural images that learning started from, with the exported rates; None where it was noise."""
        return initial._replace(learning_rates=exported.learning_rates) if self.start == "real" else None

    def _parameters(self, state: State[AnyArray]) -> Parameters:
        """Return the arrays that the optimiser moves, by name; the rates of the steps are the softplus of `rates`."""
        fixed = {"images": state.inputs, "rates": state.owned}
        return {**fixed, "labels": state.labels} if self.learn_labels else fixed

    def _clip(self, gradient: Parameters) -> Parameters:
        if self.clip is None:
            return gradient
        return optax.clip_by_global_norm(self.clip).update(gradient, optax.EmptyState())[0]

    def _initial_values(self, problem: Problem, step: int, model: Model) -> list[Variables]:
        shape = problem.inputs.shape[1:]
        if self.initial == "fixed":
            return [fresh(model, fixed_key(problem.seed), shape)["params"]]
        keys = [key(problem.seed, "initial values", step, number) for number in range(self.networks)]
        return [fresh(model, drawn, shape)["params"] for drawn in keys]


def gradient_through_training(
    student: Student, params: Variables, learned: LearnedSet, batches: int, target: np.ndarray, classes: np.ndarray
) -> tuple[Array, Array, LearnedSet]:
    """Return the loss on target images after the training, the accuracy, and the gradient of the loss.

    Args:
        student: the loss of a step.
        params: initial values.
        learned: images, labels, and the numbers whose softplus are the rates.
        batches: the number of batches of the set.
        target: natural images (m, H, W, C).
        classes: their classes, (m,).
    """
    rates, to_raw = jax.vjp(jax.nn.softplus, jnp.asarray(learned.rates))
    learned = LearnedSet(jnp.asarray(learned.images), jnp.asarray(learned.labels), rates)
    draws = in_turn(len(learned.images), batches, len(rates))
    path = unroll(student, params, learned, draws)
    labels = np.eye(student.model.num_outputs, dtype=np.float32)[classes]
    (loss, accuracy), cotangent = gradient_in_parts(student.model, "xent", path[-1], target, labels)
    gradient = pull_back_path(student, path, learned, draws, cotangent)
    return loss, accuracy, gradient._replace(rates=to_raw(gradient.rates)[0])


def _optimizer(config: DD) -> optax.GradientTransformation:
    if config.halve_every is None:
        return optax.adam(config.learning_rate)
    return optax.adam(optax.exponential_decay(config.learning_rate, config.halve_every, 0.5, staircase=True))
