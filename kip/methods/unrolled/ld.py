"""LD, label distillation: soft labels for natural images, which teach a network the target set.

A network learns on minibatches of base examples x~ with labels y~, and at each step the labels follow the gradient of
the loss on a target batch (x, y) through that step:

    second order (head `dense`)      theta' = theta - lr grad_theta L(f_theta(x~), y~),
                                     y~ <- y~ - Adam(dL(f_theta'(x), y) / dy~)
    ridge regression (head `ridge`)  w' = (1 - rate) w + rate w_local(x~, y~),
                                     y~ <- y~ - Adam(dL(w' f_theta(x), y) / dy~)

then are clipped to [0, 1] and each row is divided by its sum. With `learn="images"` (the paper's own DD and DD RR) the
labels stay one-hot, and the base examples x~ follow their gradient instead, free of any constraint. Then the network
moves, by Adam (`kip.training.learner`). It starts anew whenever its error stops falling
(`kip.methods.unrolled.restarts`).

Where sources differ: the network's step of the second-order form takes the labels from before their update, that of the
ridge form those from after it, both as in the public code. The base examples are of the train split alone; the public
code draws them from the validation images too.

Reference: Bohdal, Yang, Hospedales 2020, "Flexible Dataset Distillation: Learn Labels Instead of Images".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from pydantic import Field
from typing_extensions import TypedDict, final

from kip.config import value
from kip.errors import ConfigError, NonFiniteError
from kip.judges import Learners
from kip.methods.contract import LabelsAre, Method, Metrics, Needs
from kip.methods.problem import Problem, State
from kip.methods.unrolled import restarts
from kip.networks.model import Variables
from kip.storage.artefacts import Store
from kip.training import learner
from kip.training.learner import Training, cross_entropy
from kip.training.update import Learning

Tree = TypeVar("Tree")


class Owned(TypedDict):
    """The network that learns beside the labels, and the counters of its restarts."""

    learner: Learning
    restarts: restarts.Restarts


@final
@value
class LD(Method[None, Owned]):
    """Label distillation: learn the labels of fixed natural images; or these images, with fixed labels."""

    images_per_class: Annotated[int, Field(ge=1)] = 10
    """The number of base examples for each class of the target set."""
    base: Annotated[str, Field(min_length=1)] | None = None
    """The data set of the base examples, which are drawn without a look at classes. None takes the target set,
    class-balanced."""
    learn: Literal["labels", "images"] = "labels"
    """The learned part: `labels` (LD), or `images` with one-hot labels (DD and DD RR), by the same gradients."""
    training: Training = Training()
    """The training by which networks learn from the set. Its `head` selects second order or ridge regression."""
    steps: Annotated[int, Field(ge=1)] = 20000
    """The largest number of updates. The paper takes 400 epochs of 50 000 images."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """The learning rate of Adam, for the labels or images."""
    inner_learning_rate: Annotated[float, Field(gt=0)] = 0.01
    """The learning rate, lr, of the step that the second-order gradient goes through. Only the head `dense` uses it."""
    target_batch: Annotated[int, Field(ge=1)] | None = 1024
    """The number of target images of each step. None means the whole train set."""
    window: Annotated[int, Field(ge=1)] = 50
    """The number of steps of the moving average of the error, and of the wait for a lower average before a restart."""
    validation_networks: Annotated[int, Field(ge=1)] = 1
    """The number of fresh networks that are trained for the accuracy on validation images, at each checkpoint."""
    test_networks: Annotated[int, Field(ge=1)] = 20
    """The number of fresh networks that are trained for the accuracy on test images."""
    name: Literal["ld"] = "ld"

    @property
    def label(self) -> str:
        """The network and its head."""
        return self.training.label

    @property
    def labels_are(self) -> LabelsAre:
        """Learned scores, or the classes of natural images, whose images are learned."""
        return "scores" if self.learn == "labels" else "classes"

    @property
    def judge(self) -> Learners:
        """Fresh networks, trained on the set for its deployment steps."""
        return Learners(self.training, validation_networks=self.validation_networks, test_networks=self.test_networks)

    @property
    def needs(self) -> Needs:
        """The set takes images of each class of the target set, or images of another data set."""
        return Needs(
            None if self.base else self.images_per_class,
            self.target_batch,
            self.base,
            whole_set=self.target_batch is None,
        )

    def prepare(self, problem: Problem, store: Store) -> None:
        """Make nothing."""

    def init(self, problem: Problem, prepared: None) -> State[Owned]:
        """Return step 0: natural images, a fresh optimiser and a fresh network.

        Labels are uniform; where images are learned, one-hot.

        Raises:
            ConfigError: if images of another data set are to be learned, which have no class here.
            ConfigError, ShapeError: if the network does not fit; see `kip.training.learner.start`.
            DataError: if there are not enough base examples.
        """
        if self.learn == "images" and self.base:
            raise ConfigError(
                "method.base with method.learn 'images'", got=self.base, expected="none: its images have no class here"
            )
        count = self.images_per_class * problem.num_classes
        state = problem.base_support(count) if self.base else problem.natural_support(self.images_per_class)
        if self.learn == "images":
            labels = np.eye(problem.num_classes, dtype=np.float32)[state.class_index]
        else:
            labels = np.full((count, problem.num_classes), 1 / problem.num_classes, np.float32)
        learned = jnp.asarray(labels if self.learn == "labels" else state.inputs)
        return state._replace(
            labels=labels,
            optimizer=_host(optax.adam(self.learning_rate).init(learned)),
            deployment_steps=0,
        ).with_owned(Owned(learner=_network(self, problem, 0), restarts=restarts.start(self.window)))

    def step(self, problem: Problem, prepared: None, state: State[Owned]) -> tuple[State[Owned], Metrics]:
        """Return the state after one update of the labels or images and one of the network.

        Raises:
            NonFiniteError: if the loss or the learned part is not finite.
        """
        target = problem.target_batch(self.target_batch, step=state.step)
        chosen = learner.minibatch(
            len(state.inputs), self.training.batch, key=(problem.seed, "base examples", 0), step=state.step
        )
        moved = _step(
            state.owned["learner"],
            Examples(jnp.asarray(state.inputs), jnp.asarray(state.labels)),
            state.optimizer,
            chosen,
            jnp.asarray(target.images),
            jnp.asarray(target.labels.argmax(axis=1)),
            config=self,
        )
        network, learned, optimizer, loss, accuracy = moved
        if not (np.isfinite(loss) and np.isfinite(np.asarray(learned)).all()):
            raise NonFiniteError(
                f"the loss or the learned {self.learn} hold NaN or infinity", remedy="Lower the learning rates."
            )
        counters, again = restarts.note(state.owned["restarts"], 1 - float(accuracy))
        if again:
            network = _network(self, problem, int(counters.number))
        metrics = {"loss": float(loss), "batch_accuracy": float(accuracy), "restarts": int(counters.number)}
        return state._replace(
            step=state.step + 1,
            optimizer=optimizer,
            deployment_steps=counters.deployment_steps,
            owned=Owned(learner=network, restarts=counters),
            inputs=learned if self.learn == "images" else state.inputs,
            labels=learned if self.learn == "labels" else state.labels,
        ), metrics

    def natural(self, initial: State[Owned], exported: State[Owned]) -> State[Owned] | None:
        """Return the base examples with their true classes, deployed as long as the exported set.

        None if they are of another data set: they have no class here.
        """
        if self.base:
            return None
        one_hot = np.eye(exported.labels.shape[1], dtype=np.float32)[initial.class_index]
        return initial._replace(labels=one_hot, deployment_steps=exported.deployment_steps)


class Examples(NamedTuple):
    """Base examples: x~ (b, H, W, C) and y~ (b, c)."""

    images: Array
    labels: Array


def through_update(
    inner: Callable[[Variables, Array], Array],
    outer: Callable[[Variables], tuple[Array, Array]],
    parameters: Variables,
    learned: Array,
    learning_rate: float,
) -> tuple[tuple[Array, Array], Array]:
    """Return outer(theta') with its second result, and its derivative with respect to l, y~ or x~, through

        theta' = theta - lr grad_theta inner(theta, l).

    Args:
        inner: the loss on base examples, a function of (theta, l).
        outer: the loss on target images at theta', and anything else.
        parameters: theta, a pytree.
        learned: l.
        learning_rate: lr.
    """

    def loss(learned: Array) -> tuple[Array, Array]:
        gradient = jax.grad(inner)(parameters, learned)
        return outer(jax.tree.map(lambda p, g: p - learning_rate * g, parameters, gradient))

    return jax.value_and_grad(loss, has_aux=True)(learned)


def learned_gradient(
    config: LD, network: Learning, examples: Examples, target: Array, classes: Array
) -> tuple[tuple[Array, Array], Array]:
    """Return the loss on a target batch after the inner update, its logits (m, c), and dloss/dy~ (or dloss/dx~).

    Args:
        config: the method.
        network: before the update.
        examples: the minibatch.
        target: x, (m, H, W, C).
        classes: the classes of `target`, (m,).
    """
    training = config.training
    model = training.model(examples.labels.shape[1])

    def with_learned(learned: Array) -> Examples:
        return examples._replace(**{config.learn: learned})

    def loss(logits: Array) -> tuple[Array, Array]:
        return optax.softmax_cross_entropy_with_integer_labels(logits, classes).mean(), logits

    def inner(variables: Variables, learned: Array) -> Array:
        images, labels = with_learned(learned)
        return cross_entropy(model.apply(variables, images).logits, labels)

    learned, variables = getattr(examples, config.learn), learner.network_of(training, network)
    if training.head == "dense":
        return through_update(
            inner,
            lambda variables: loss(model.apply(variables, target).logits),
            variables,
            learned,
            config.inner_learning_rate,
        )
    z = learner.with_bias(model.apply(variables, target).features)

    def ridge(learned: Array) -> tuple[Array, Array]:
        before = network.variables["weights"]
        weights = learner.move_weights(training, variables, before, *with_learned(learned))
        return loss(network.variables["params"]["scale"] * (z @ weights))

    return jax.value_and_grad(ridge, has_aux=True)(learned)


def constrain(labels: Array) -> Array:
    """Return labels clipped to [0, 1], each row divided by its sum; a row of zeros becomes uniform."""
    clipped = jnp.clip(labels, 0, 1)
    total = clipped.sum(axis=1, keepdims=True)
    return jnp.where(total > 0, clipped / jnp.where(total > 0, total, 1), 1 / labels.shape[1])


@partial(jax.jit, static_argnames=("config",))
def _step(
    network: Learning,
    examples: Examples,
    optimizer: optax.OptState,
    chosen: Array,
    target: Array,
    classes: Array,
    *,
    config: LD,
) -> tuple[Learning, Array, optax.OptState, Array, Array]:
    """Return the network, the learned part and its optimiser after an update, the loss, and the accuracy on targets."""
    before = Examples(*(part[chosen] for part in examples))
    # Gradients through an update and through a ridge solution need float32's last digits. All is in one precision,
    # since XLA computes the inner gradient, which is the network's own too, only once where both agree.
    with jax.default_matmul_precision("highest"):
        (loss, logits), to_chosen = learned_gradient(config, network, before, target, classes)
        learned = getattr(examples, config.learn)
        gradient = jnp.zeros_like(learned).at[chosen].set(to_chosen)
        updates, optimizer = optax.adam(config.learning_rate).update(gradient, optimizer)
        learned = learned + updates
        if config.learn == "labels":
            learned = constrain(learned)
        labels_after = (learned if config.learn == "labels" else examples.labels)[chosen]
        network = learner.learn(config.training, network, *before, labels_of_loss=labels_after)
    return network, learned, optimizer, loss, jnp.mean(logits.argmax(axis=1) == classes)


def _network(config: LD, problem: Problem, number: int) -> Learning:
    """Return the network after `number` restarts, on the host."""
    shape = problem.inputs.shape[1:]
    return _host(learner.start(config.training, shape, problem.num_classes, key=(problem.seed, "network", number)))


def _host(tree: Tree) -> Tree:
    return jax.tree.map(np.asarray, tree)
