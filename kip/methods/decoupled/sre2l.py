"""SRe2L: images recovered from the statistics of one trained network, by Adam, a group of one image a class at a time.

Each of the `images_per_class` groups begins as noise and takes `iterations` steps of Adam on the loss of
`kip.methods.decoupled.recovery`, on images rolled by up to `roll` pixels; pixels stay within what an image can have.
The images after a group's last step are kept. A step of the run is one iteration of one group.

Labels are the classes; the paper's soft labels are what `kip compare --protocols SL+KD` trains with, from a teacher.

Reference: Yin, Xing, Shen 2023, "Squeeze, Recover and Relabel"; public code for small images.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from pydantic import Field

from kip.artefacts import Store
from kip.config import value
from kip.errors import ConfigError, NonFiniteError
from kip.methods.contract import Metrics
from kip.methods.decoupled.recovery import recovery_loss, rolled
from kip.methods.decoupled.squeeze import Squeeze, squeezed
from kip.methods.descent import begin, descend
from kip.methods.for_networks import ForNetworks
from kip.methods.problem import Problem, State
from kip.networks.model import Model, Network, Variables
from kip.rng import generator, key


@value
class SRe2L(ForNetworks):
    """Squeeze and recover: learn images from a trained network's statistics."""

    images_per_class: Annotated[int, Field(ge=1)] = 10
    """Images of each class."""
    network: Network = Network("ResNet18")
    """The network that is squeezed; with batch normalisation."""
    squeeze: Squeeze = Squeeze()
    """How it is trained."""
    start: Literal["noise", "real"] = "noise"
    """What the images begin as: normal noise, or natural images."""
    iterations: Annotated[int, Field(ge=1)] = 1000
    """Steps of Adam of each group of one image a class."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.25
    """Adam's at its highest; it falls to zero as a cosine within each group."""
    strength: Annotated[float, Field(ge=0)] = 0.01
    """The weight of the statistics."""
    roll: Annotated[int, Field(ge=0)] = 4
    """Pixels by which images are rolled, at most, anew for every step."""
    evaluation_network: Network = Network("ConvNet-D3")
    """What is trained on the set to judge it."""
    test_networks: Annotated[int, Field(ge=1)] = 3
    """Networks trained for the accuracy on test images."""
    name: Literal["sre2l"] = "sre2l"

    variance: ClassVar[float] = 1.0
    """The weight of variances against means; DWA has its own."""

    def __post_init__(self) -> None:
        if not self.network.batch_normalised:
            raise ConfigError(
                "network", got=self.network.label, expected="batch normalisation, whose statistics are recovered",
                remedy="Add `norm=batch` to the network.",
            )  # fmt: skip

    @property
    def steps(self) -> int:  # type: ignore[override]
        """Iterations of all groups."""
        return self.images_per_class * self.iterations

    @property
    def judging_network(self) -> Network:
        """What is trained on the set to judge it."""
        return self.evaluation_network

    @property
    def schedule_ends(self) -> bool:
        """The cosine ends with each group, wherever the run ends."""
        return True

    def prepare(self, problem: Problem, store: Store) -> Variables:
        """Return the squeezed network's variables.

        Raises:
            ConfigError: if preprocessing mixes pixels, which then have no range.
        """
        pixel_range(problem)
        return squeezed(self.squeeze, self.network, problem, store)[1]

    def init(self, problem: Problem, prepared: Variables) -> State:
        """Return step 0: groups of one image a class, noise or natural images, and the first group's optimiser."""
        state = problem.natural_support(self.images_per_class)
        order = np.argsort(state.class_index, kind="stable").reshape(problem.num_classes, -1).T.reshape(-1)
        state = state._replace(
            images=state.images[order],
            labels=state.labels[order],
            class_index=state.class_index[order],
            statistics=state.statistics[order],
        )
        if self.start == "noise":
            noise = generator(problem.seed, "initial noise").standard_normal(state.images.shape)
            state = state._replace(images=np.clip(noise, *pixel_range(problem)).astype(np.float32))
        group = {"images": state.images[: problem.num_classes]}
        return state._replace(optimizer=begin(_optimizer, self, group), owned=self._network(problem, prepared, state))

    def step(self, problem: Problem, prepared: Variables, state: State) -> tuple[State, Metrics]:
        """Return the state after one iteration of one group, with the loss before it.

        Raises:
            NonFiniteError: if the loss is not finite.
        """
        group, iteration = divmod(state.step, self.iterations)
        rows = slice(group * problem.num_classes, (group + 1) * problem.num_classes)
        images = {"images": state.images[rows]}
        if state.step and iteration == 0:
            state = state._replace(
                optimizer=begin(_optimizer, self, images), owned=self._network(problem, prepared, state)
            )
        variables = {**prepared, **state.owned}
        (loss, accuracy), gradient = _gradient(
            variables, images["images"], jnp.asarray(state.class_index[rows]),
            key(problem.seed, "roll", state.step), model=Model(self.network, problem.num_classes), method=self,
        )  # fmt: skip
        if not np.isfinite(loss):
            raise NonFiniteError("the loss of the recovery is NaN or infinite", remedy="Lower the learning rate.")
        after, optimizer = descend(_optimizer, self, {"images": gradient}, state.optimizer, images)
        recovered = np.array(state.images)
        recovered[rows] = np.clip(after["images"], *pixel_range(problem))
        metrics = {"loss": float(loss), "batch_accuracy": float(accuracy)}
        return state._replace(step=state.step + 1, images=recovered, optimizer=optimizer), metrics

    def natural(self, initial: State, exported: State) -> State | None:
        """Return the natural images that recovery started from; None where it started from noise."""
        return initial if self.start == "real" else None

    def _network(self, problem: Problem, prepared: Variables, state: State) -> Any:
        """Return what of the squeezed network is a group's own: nothing."""
        return {}


def pixel_range(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Return the preprocessed values of black and of white, (1, H, W, C) each.

    Raises:
        ConfigError: if preprocessing mixes pixels.
    """
    kind = problem.transform.describe()["kind"]
    if kind not in ("none", "standardize"):
        raise ConfigError(
            "preprocess.kind", got=repr(kind), expected="'none' or 'standardize', which leave each pixel a range"
        )
    shape = (1, *problem.pixels.shape[1:])
    black, white = (problem.transform.apply(np.full(shape, value, np.uint8)) for value in (0, 255))
    return black, white


@partial(jax.jit, static_argnames=("model", "method"))
def _gradient(
    variables: Any, images: Array, classes: Array, key: Array, *, model: Model, method: SRe2L
) -> tuple[tuple[Array, Array], Array]:
    """Return the loss and the accuracy of a group, and the loss' gradient by its images."""

    def loss(images: Array) -> tuple[Array, Array]:
        labels = jax.nn.one_hot(classes, model.num_outputs)
        value, logits = recovery_loss(
            model, variables, rolled(key, images, method.roll), labels,
            strength=method.strength, variance=method.variance,
        )  # fmt: skip
        return value, jnp.mean(logits.argmax(1) == classes)

    return jax.value_and_grad(loss, has_aux=True)(images)


def _optimizer(config: SRe2L) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.iterations), b1=0.5, b2=0.9)
