"""Recovery in groups: steps of Adam that bring a group of images to a low loss of a squeezed network.

Images are recovered a group at a time, each of `together` images of every class. A step of the run is one iteration of
one group. Pixels stay within the range of images, and the images after the last iteration of a group are kept. Labels
are the classes.

A method gives two functions of its module, which take its configuration first and are compiled together:

    view(config, key, images, iteration, mirror)            the images as a network sees them in an iteration
    loss(config, model, arrays, images, labels, key)         the loss, with the logits and the method's memory

`arrays` is a pytree of arrays: a network's variables, and all else that the loss needs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, Literal, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from typing_extensions import NamedTuple  # typing's is not generic on CPython 3.10

from kip.errors import NonFiniteError
from kip.methods.contract import Metrics
from kip.methods.descent import begin, descend
from kip.methods.problem import Owned, Problem, State
from kip.networks.model import Model, Network, Variables
from kip.rng import key
from kip.training.devices import free_devices, spread

Start = Literal["noise", "real", "patches"]


class Recovering(Protocol):
    """A method that recovers images: a group's steps, and whether the group is spread over devices."""

    @property
    def pace(self) -> Pace:
        """The steps of a group."""
        ...

    @property
    def spread(self) -> bool:
        """Spread a group over the devices of the machine."""
        ...


class Prepared(NamedTuple):
    """The squeezed networks and the crops, made once before recovery.

    Attributes:
        variables: those of each squeezed network.
        patches: crops of natural images in the order of the set, (n, H, W, C); None: the method takes none.
    """

    variables: tuple[Variables, ...]
    patches: np.ndarray | None


class Group(NamedTuple):
    """The group that a step of a run recovers.

    Attributes:
        rows: its images.
        iteration: of the group, from 0.
        is_new: whether the group begins in this step, and is not the run's first.
    """

    rows: slice
    iteration: int
    is_new: bool


class Pace(NamedTuple):
    """The steps of a group: Adam with betas (0.5, 0.9), whose rate falls to zero as a cosine.

    Attributes:
        learning_rate: at its highest.
        iterations: of a group.
    """

    learning_rate: float
    iterations: int


Config = TypeVar("Config", bound=Recovering)
Arrays = TypeVar("Arrays")
Memory = TypeVar("Memory")
Options = TypeVar("Options")
View = Callable[[Options, Array, Array, Array, bool], Array]
Loss = Callable[[Options, Model, Arrays, Array, Array, Array], tuple[Array, tuple[Array, Memory]]]


class Recovered(NamedTuple, Generic[Memory, Owned]):
    """The state after an iteration, the memory of the loss, and the metrics before the iteration."""

    state: State[Owned]
    memory: Memory
    metrics: Metrics


class Slope(NamedTuple, Generic[Memory]):
    """The loss of a group, the fraction of its images that are taken for their classes, and the gradient."""

    loss: float
    accuracy: float
    memory: Memory
    gradient: Array


def group_of(step: int, num_classes: int, *, iterations: int, together: int) -> Group:
    """Return the group that a step of the run recovers, and the iteration of the group that the step is."""
    count = together * num_classes
    first, iteration = step // iterations * count, step % iterations
    return Group(slice(first, first + count), iteration, step > 0 and iteration == 0)


def fresh_adam(pace: Pace, images: Any) -> Any:
    """Return the optimiser's state before the first iteration of a group of images."""
    return begin(adam, pace, {"images": images})


def recover(
    view: View[Config],
    loss: Loss[Config, Arrays, Memory],
    config: Config,
    problem: Problem,
    state: State[Owned],
    arrays: Arrays,
    group: Group,
    network: Network,
) -> Recovered[Memory, Owned]:
    """Return the state after one iteration of a group.

    Args:
        view: the images as the network sees them.
        loss: the loss.
        config: the method, which both functions take.
        problem: the train set, the seed, and the range of pixels.
        state: before the iteration.
        arrays: the arrays that the loss needs.
        group: the group, of `group_of`.
        network: the network whose turn it is.

    Raises:
        NonFiniteError: if the loss is not finite.
    """
    images = state.inputs[group.rows]
    slope = slope_of(view, loss, config, problem, state, arrays, group, images, network)
    new_images, optimizer = descend_within_range(config.pace, problem, state.optimizer, images, slope.gradient)
    recovered = np.array(state.inputs)
    recovered[group.rows] = new_images
    after = state._replace(step=state.step + 1, inputs=recovered, optimizer=optimizer)
    return Recovered(after, slope.memory, {"loss": slope.loss, "batch_accuracy": slope.accuracy})


def slope_of(
    view: View[Config],
    loss: Loss[Config, Arrays, Memory],
    config: Config,
    problem: Problem,
    state: State[Owned],
    arrays: Arrays,
    group: Group,
    images: Any,
    network: Network,
) -> Slope[Memory]:
    """Return the loss of a group's images, (b, H, W, C), and its gradient with respect to them; see `recover`.

    Raises:
        NonFiniteError: if the loss is not finite.
    """
    (value, (accuracy, memory)), gradient = _gradient(
        arrays,
        images,
        jnp.asarray(state.class_index[group.rows]),
        key(problem.seed, "roll", state.step),
        group.iteration,
        view=view,
        loss=loss,
        config=config,
        model=Model(network, problem.num_classes),
        mirror=problem.mirror_keeps_class,
        devices=free_devices() if config.spread else 1,
    )
    if not np.isfinite(value):
        raise NonFiniteError("the loss of the recovery is NaN or infinite", remedy="Lower the learning rate.")
    return Slope(float(value), float(accuracy), memory, gradient)


def descend_within_range(
    pace: Pace, problem: Problem, optimizer: Any, images: Any, gradient: Array
) -> tuple[Array, Any]:
    """Return images after a step of Adam, within the range of pixels, and the optimiser's state."""
    after, optimizer = descend(adam, pace, {"images": gradient}, optimizer, {"images": images})
    return jnp.clip(after["images"], *problem.pixel_range()), optimizer


def adam(pace: Pace) -> optax.GradientTransformation:
    """Return the optimiser of a group."""
    return optax.adam(optax.cosine_decay_schedule(pace.learning_rate, pace.iterations), b1=0.5, b2=0.9)


@partial(jax.jit, static_argnames=("view", "loss", "config", "model", "mirror", "devices"))
def _gradient(
    arrays: Any,
    images: Array,
    classes: Array,
    key: Array,
    iteration: Array,
    *,
    view: View[Config],
    loss: Loss[Config, Any, Any],
    config: Config,
    model: Model,
    mirror: bool,
    devices: int,
) -> tuple[tuple[Array, tuple[Array, Any]], Array]:
    """Return the loss, the accuracy of a group, the memory of the loss, and the gradient."""
    labels = jax.nn.one_hot(classes, model.num_outputs)

    def of_images(images: Array) -> tuple[Array, tuple[Array, Any]]:
        views = spread(view(config, key, images, iteration, mirror), devices)
        value, (logits, memory) = loss(config, model, arrays, views, labels, jax.random.fold_in(key, 1 << 16))
        return value, (jnp.mean(logits.argmax(1) == classes), memory)

    return jax.value_and_grad(of_images, has_aux=True)(images)
