"""What G-VBSM and EDC have in common: several networks in turn, and running statistics of images that are recovered.

The network whose turn it is sees the group, and

    L = CE + strength * sum_l w_l sum_parts |s_l - S_l|_2

over the inputs l of its batch normalisations and convolutions, with the parts of `kip.methods.decoupled.statistics`:
s_l of the images with a memory of all steps before (`momentum`), S_l what batch normalisation keeps, and for
convolutions those of the train images. w_l = 10 for the first convolution, whose input is the image, and 1 otherwise.
With the class share c, S_l counts 1 - c, and c the mean over the group's images of the statistics of their classes.

Memories begin with the first group and last for the whole run; each network has its own. The public code of both
methods means to begin with the first batch's statistics and begins at zero, so that early statistics are too small:
`running="public"` does that; by default they are right from the first batch on.

A convolution is left out of a step with probability `drop`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import Field

from kip.config import value
from kip.methods.decoupled import statistics
from kip.methods.decoupled.base import Prepared, Recovered
from kip.methods.decoupled.recovery import FIRST_LAYER, norm
from kip.methods.problem import Problem, State
from kip.networks.model import Model, Network
from kip.storage.artefacts import Store
from kip.training.losses import per_example

OTHERS = (
    Network("ConvNet-D3", norm="batch"), Network("WRN-16-2"), Network("ShuffleNetV2"), Network("MobileNetV2")
)  # fmt: skip
"""The networks after the first, as the papers have them for 32 pixels."""


@value
class Running(Recovered):
    """The base of methods that match running statistics of several networks."""

    network: Network = Network("ResNet18")
    """The first network that is squeezed; with batch normalisation."""
    more_networks: tuple[Network, ...] = OTHERS
    """The networks that follow it in turn, an iteration each."""
    together: Annotated[int, Field(ge=1)] = 1
    """Images of each class that are recovered together; it divides `images_per_class`."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.05
    """Adam's at its highest; it falls to zero as a cosine within each group."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.8
    """The weight of the past in the running statistics of the images."""
    running: Literal["corrected", "public"] = "corrected"
    """Whether running statistics are right from the first batch on, or begin at zero as in the public code."""
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The probability of a convolution to be left out of a step."""

    @property
    def networks(self) -> tuple[Network, ...]:
        """All networks, in their order."""
        return (self.network, *self.more_networks)

    @property
    def group(self) -> int:
        """Images of each class that are recovered together."""
        return self.together

    @property
    def share_of_classes(self) -> float:
        """The weight of the statistics of classes against those of all images."""
        return 0.0

    def prepare(self, problem: Problem, store: Store) -> Prepared:
        """Return the squeezed networks, and the statistics of the train images in each.

        Raises:
            ConfigError: if preprocessing mixes pixels, which then have no range.
        """
        prepared = super().prepare(problem, store)
        counts, made = np.bincount(problem.labels, minlength=problem.num_classes), []
        for network, variables in zip(self.networks, prepared.variables):
            model = Model(network, problem.num_classes)
            of_classes = statistics.of_train_images(
                model, variables, problem, store, every=self.share_of_classes > 0
            )  # fmt: skip
            wanted = statistics.pooled(of_classes, counts) | {
                name: dict(layer["batch"]) for name, layer in variables["batch_stats"].items()
            }
            tables: statistics.Layers = {}
            if self.share_of_classes:
                tables = {
                    name: {part: np.asarray(parts[part], np.float32) for part in parts if not part.endswith("square")}
                    for name, parts in of_classes.items()
                }
            made.append({"all": wanted, "classes": tables})
        return prepared._replace(statistics=tuple(made))

    def init(self, problem: Problem, prepared: Prepared) -> State:
        """Return step 0, with empty memories of the images' statistics."""
        state = super().init(problem, prepared)
        images = state.inputs[self.rows(problem, 0)]
        memories = []
        for network, variables in zip(self.networks, prepared.variables):
            model = Model(network, problem.num_classes)
            shapes = jax.eval_shape(lambda x, m=model, v=variables: statistics.of_batch(m.observed(v, x)[1]), images)
            memories.append(statistics.empty(shapes))
        return state._replace(owned=tuple(memories))

    def given(self, prepared: Prepared, state: State, turn: int) -> Any:
        """Return a network's variables, the statistics that are wanted in it, and its memory."""
        return {
            "variables": prepared.variables[turn], "wanted": prepared.statistics[turn], "memory": state.owned[turn]
        }  # fmt: skip

    def moved(self, state: State, rows: slice, images: Array, turn: int, owned: Any) -> State:
        """Return the state with the moved images, and the memory of the network whose turn it was."""
        state = super().moved(state, rows, images, turn, owned)
        memories = list(state.owned)
        memories[turn] = owned
        return state._replace(owned=tuple(memories))

    def objective(self, model: Model, given: Any, images: Array, labels: Array, key: Array) -> tuple[Array, Any]:
        """Return the loss, the logits, and the memory after this batch."""
        outputs, inputs = model.observed(given["variables"], images)
        kept = {
            name: jax.random.bernoulli(jax.random.fold_in(key, number), 1 - self.drop)
            for number, name in enumerate(sorted(inputs))
            if name.startswith("Conv")
        }
        memory, ours = statistics.remembered(
            given["memory"], statistics.of_batch(inputs), self.momentum, corrected=self.running == "corrected",
            kept=kept if self.drop else {},
        )  # fmt: skip
        first = "Conv_0" if "Conv_0" in inputs else "Normalise_0"
        total, wanted = jnp.zeros(()), given["wanted"]
        for name, parts in ours.items():
            away = (1 - self.share_of_classes) * _away(parts, wanted["all"][name])
            if self.share_of_classes:
                of_classes = {part: (labels @ table).mean(0) for part, table in wanted["classes"][name].items()}
                away = away + self.share_of_classes * _away(parts, of_classes)
            counts = kept[name] if self.drop and name in kept else 1.0
            total = total + counts * (FIRST_LAYER if name == first else 1.0) * away
        loss = per_example("xent", outputs.logits, labels).mean() + self.strength * total
        return loss + self.more_loss(images), (outputs.logits, memory)

    def more_loss(self, images: Array) -> Array:
        """Return what is added to the loss of a group as it is seen, (b, H, W, C); jit-composable."""
        return jnp.zeros(())


def _away(ours: dict[str, Array], wanted: dict[str, Array]) -> Array:
    """Return the sum of the distances of a layer's parts."""
    return sum((norm(ours[part] - wanted[part]) for part in ours), jnp.zeros(()))
