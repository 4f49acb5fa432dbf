"""What the methods that recover images have in common: squeezed networks, groups of images, Adam, pixels' range.

Images are recovered a group at a time, each of `together` images of every class, by `iterations` steps of Adam on a
loss of one of the squeezed networks, which take turns. Pixels stay within what an image can have, and what the last
step leaves is kept. A step of the run is one iteration of one group. Labels are the classes.

A method says what a network sees of a group (`seen`) and what is minimised (`objective`); see
`kip.methods.decoupled.recovery`.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from pydantic import Field

from kip.config import value
from kip.errors import ConfigError, NonFiniteError
from kip.methods.contract import Metrics
from kip.methods.decoupled.recovery import recovery_loss
from kip.methods.decoupled.squeeze import Decoupled, squeezed
from kip.methods.descent import begin, descend
from kip.methods.problem import Problem, State
from kip.networks.model import Model, Variables
from kip.rng import generator, key
from kip.storage.artefacts import Store
from kip.training.devices import free_devices, spread


class Prepared(NamedTuple):
    """What is made once before recovery.

    Attributes:
        variables: those of each squeezed network.
        statistics: of the train images in each network, for methods that match others than a network keeps; () where
            there are none.
        patches: crops of natural images in the order of the set, (n, H, W, C); () where the method takes none.
    """

    variables: tuple[Variables, ...]
    statistics: tuple[Any, ...] = ()
    patches: Any = ()


@value
class Recovered(Decoupled):
    """The base of methods that recover images from squeezed networks, which take turns; with batch normalisation."""

    start: Literal["noise", "real", "patches"] = "noise"
    """What the images begin as: normal noise, natural images, or the crops of natural images that RDED would choose."""
    iterations: Annotated[int, Field(ge=1)] = 1000
    """Steps of Adam of each group of images."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.25
    """Adam's at its highest; it falls to zero as a cosine within each group."""
    strength: Annotated[float, Field(ge=0)] = 0.01
    """The weight of the statistics."""
    spread: bool = False
    """Whether the images of a group are spread over the devices of the machine, as many as divide their number. Results
    differ from those of one device in their last digits."""

    def __post_init__(self) -> None:
        for network in self.networks:
            if not network.batch_normalised:
                raise ConfigError(
                    "network", got=network.label, expected="batch normalisation, whose statistics are recovered",
                    remedy="Add `norm=batch` to the network.",
                )  # fmt: skip
        if self.images_per_class % self.group:
            raise ConfigError(
                "together", got=self.group, expected=f"a divisor of images_per_class, {self.images_per_class}"
            )

    @property
    def group(self) -> int:
        """Images of each class that are recovered together."""
        return 1

    @property
    def takes_crops(self) -> bool:
        """Whether crops of natural images are chosen before recovery."""
        return self.start == "patches"

    @property
    def steps(self) -> int:  # type: ignore[override]
        """Iterations of all groups."""
        return self.images_per_class // self.group * self.iterations

    @property
    def schedule_ends(self) -> bool:
        """The cosine ends with each group, wherever the run ends."""
        return True

    def prepare(self, problem: Problem, store: Store) -> Prepared:
        """Return the squeezed networks, and crops where they are wanted.

        Raises:
            ConfigError: if preprocessing mixes pixels, which then have no range.
        """
        problem.pixel_range()
        variables = tuple(squeezed(self.squeeze, network, problem, store)[1] for network in self.networks)
        patches = ()
        if self.takes_crops:
            model = Model(self.networks[0], problem.num_classes)
            by_class = self.crops.of_classes(model, variables[0], problem, self.images_per_class, store)
            patches = by_class.reshape(-1, *by_class.shape[2:])[self._order(problem.num_classes)]
        return Prepared(variables, patches=patches)

    def init(self, problem: Problem, prepared: Prepared) -> State:
        """Return step 0: groups of images of every class, and the first group's optimiser."""
        state = problem.natural_support(self.images_per_class)
        order = np.argsort(state.class_index, kind="stable")[self._order(problem.num_classes)]
        state = state._replace(
            inputs=state.inputs[order],
            labels=state.labels[order],
            class_index=state.class_index[order],
            statistics=state.statistics[order],
        )
        if self.start == "noise":
            noise = generator(problem.seed, "initial noise").standard_normal(state.inputs.shape)
            state = state._replace(inputs=np.clip(noise, *problem.pixel_range()).astype(np.float32))
        elif self.start == "patches":
            state = state._replace(inputs=prepared.patches)
        return self.begin_group(problem, prepared, state)

    def step(self, problem: Problem, prepared: Prepared, state: State) -> tuple[State, Metrics]:
        """Return the state after one iteration of one group, with the loss before it.

        Raises:
            NonFiniteError: if the loss is not finite.
        """
        iteration, rows = state.step % self.iterations, self.rows(problem, state.step)
        if state.step and iteration == 0:
            state = self.begin_group(problem, prepared, state)
        turn = state.step % len(self.networks)
        learned = self.learned(state, rows)
        (loss, (accuracy, owned)), gradient = _gradient(
            self.given(prepared, state, turn), self.shown(state, learned["images"]),
            jnp.asarray(state.class_index[rows]), key(problem.seed, "roll", state.step), iteration,
            method=self, turn=turn, num_classes=problem.num_classes, mirror=problem.mirror_keeps_class,
            devices=free_devices() if self.spread else 1,
        )  # fmt: skip
        if not np.isfinite(loss):
            raise NonFiniteError("the loss of the recovery is NaN or infinite", remedy="Lower the learning rate.")
        after, optimizer = descend(adam, self, self.of_learned(gradient, learned), state.optimizer, learned)
        moved = jnp.clip(after["images"], *problem.pixel_range())
        state = self.moved(state._replace(optimizer=optimizer), rows, moved, turn, owned)
        metrics = {"loss": float(loss), "batch_accuracy": float(accuracy)}
        return state._replace(step=state.step + 1), metrics

    def natural(self, initial: State, exported: State) -> State | None:
        """Return the natural images that recovery started from; None where it started from noise or crops."""
        return initial if self.start == "real" else None

    def rows(self, problem: Problem, step: int) -> slice:
        """Return which images a step moves."""
        count = self.group * problem.num_classes
        first = step // self.iterations * count
        return slice(first, first + count)

    def begin_group(self, problem: Problem, prepared: Prepared, state: State) -> State:
        """Return the state before the first iteration of a group: with a new optimiser, at least."""
        images = {"images": state.inputs[self.rows(problem, state.step)]}
        return state._replace(optimizer=begin(adam, self, images))

    def learned(self, state: State, rows: slice) -> dict[str, Any]:
        """Return what Adam moves."""
        return {"images": state.inputs[rows]}

    def shown(self, state: State, images: Array) -> Array:
        """Return the images that are recovered from what Adam moves: the same, unless they are of several sizes."""
        return images

    def of_learned(self, gradient: Array, learned: dict[str, Any]) -> dict[str, Any]:
        """Return the gradient by what Adam moves, from that by the images of `shown`."""
        return {"images": gradient}

    def moved(self, state: State, rows: slice, images: Array, turn: int, owned: Any) -> State:
        """Return the state with what Adam has moved, and what the objective keeps."""
        recovered = np.array(state.inputs)
        recovered[rows] = images
        return state._replace(inputs=recovered)

    def given(self, prepared: Prepared, state: State, turn: int) -> Any:
        """Return what the objective needs of a network, a pytree of arrays: its variables."""
        return prepared.variables[turn]

    def seen(self, key: Array, images: Array, iteration: Any, *, mirror: bool) -> Array:
        """Return what a network sees of a group in an iteration, 0 and up; jit-composable.

        Args:
            key: of all draws.
            images: (b, H, W, C).
            iteration: of the group.
            mirror: whether a mirror image keeps its class.
        """
        return images

    def objective(self, model: Model, given: Any, images: Array, labels: Array, key: Array) -> tuple[Array, Any]:
        """Return what is minimised, (), with the logits of what was seen and what the method keeps of it.

        Args:
            model: the network whose turn it is.
            given: what `given` returned.
            images: what it sees, (b, H, W, C).
            labels: one-hot, (b, c).
            key: of draws.
        """
        loss, logits = recovery_loss(model, given, images, labels, strength=self.strength)
        return loss, (logits, ())

    def _order(self, num_classes: int) -> np.ndarray:
        """Return the places of images sorted by class, group after group, each in the order of the classes."""
        places = np.arange(num_classes * self.images_per_class).reshape(num_classes, -1, self.group)
        return places.transpose(1, 0, 2).reshape(-1)


@partial(jax.jit, static_argnames=("method", "turn", "num_classes", "mirror", "devices"))
def _gradient(
    given: Any,
    images: Array,
    classes: Array,
    key: Array,
    iteration: Any,
    *,
    method: Recovered,
    turn: int,
    num_classes: int,
    mirror: bool,
    devices: int,
) -> tuple[tuple[Array, Any], Array]:
    """Return the loss, the accuracy of a group and what the method keeps, and the loss' gradient by the images."""
    model = Model(method.networks[turn], num_classes)

    def loss(images: Array) -> tuple[Array, Any]:
        seen = spread(method.seen(key, images, iteration, mirror=mirror), devices)
        labels = jax.nn.one_hot(classes, num_classes)
        value, (logits, owned) = method.objective(model, given, seen, labels, jax.random.fold_in(key, 1 << 16))
        return value, (jnp.mean(logits.argmax(1) == classes), owned)

    return jax.value_and_grad(loss, has_aux=True)(images)


def adam(config: Recovered) -> optax.GradientTransformation:
    """Return the optimiser of a group."""
    return optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.iterations), b1=0.5, b2=0.9)
