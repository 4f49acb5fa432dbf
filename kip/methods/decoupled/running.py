"""Recovery by several networks in turn, on running statistics of the images: the parts that G-VBSM and EDC share.

The network whose turn it is sees the group, and

    L = CE + strength * sum_l w_l sum_parts |s_l - S_l|_2

over the inputs l of its batch normalisations and convolutions, with the parts of `kip.methods.decoupled.statistics`:
s_l of the images with a memory of all steps before (`momentum`), S_l what batch normalisation keeps, and for
convolutions those of the train images. w_l = 10 for the first convolution, whose input is the image, and 1 otherwise.
With the class share c, S_l counts 1 - c, and c the mean over the group's images of the statistics of their classes.

Memories begin with the first group and last for the whole run; each network has its own. The public code of both
methods means to begin with the first batch's statistics and begins at zero, so that early statistics are too small:
a memory that is not `corrected` does that; by default they are right from the first batch on.

A convolution is left out of a step with probability `drop`.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kip.methods.contract import Metrics
from kip.methods.decoupled import groups, statistics
from kip.methods.decoupled.base import Decoupled
from kip.methods.decoupled.groups import Loss, View
from kip.methods.decoupled.recovery import FIRST_LAYER, norm
from kip.methods.decoupled.statistics import Layers
from kip.methods.problem import Problem, State
from kip.networks.model import Model, Network, Variables
from kip.storage.artefacts import Store
from kip.training.losses import per_example

OTHERS = (
    Network("ConvNet-D3", norm="batch"),
    Network("WRN-16-2"),
    Network("ShuffleNetV2"),
    Network("MobileNetV2"),
)
"""The networks after the first, as the papers have them for 32 pixels."""

Memories = tuple[Layers, ...]
"""The memory of each network of the statistics of its images."""


class Targets(NamedTuple):
    """The statistics S_l of the train images in a network, which those of the recovered images approach.

    Attributes:
        all: those of all images, (size,) each.
        classes: those of the images of each class, (classes, size) each; empty if only those of all are matched.
    """

    all: Layers
    classes: Layers


class Prepared(NamedTuple):
    """The squeezed networks, the crops and the target statistics, made once before recovery.

    Attributes:
        variables: those of each squeezed network.
        patches: crops of natural images in the order of the set, (n, H, W, C); None: the method takes none.
        targets: the statistics of the train images in each network.
    """

    variables: tuple[Variables, ...]
    patches: np.ndarray | None
    targets: tuple[Targets, ...]


class Turn(NamedTuple):
    """The variables of the network whose turn it is, its target statistics, and its memory of those of the images."""

    variables: Variables
    targets: Targets
    memory: Layers


class Matching(NamedTuple):
    """The weights with which running statistics are matched.

    Attributes:
        strength: the weight of the statistics' distance, beside the cross-entropy.
        momentum: the weight of the past in the running statistics of the images.
        corrected: whether they are right from the first batch on.
        drop: the probability of a convolution to be left out of a step.
        class_share: the weight c of the statistics of classes, against those of all images.
    """

    strength: float
    momentum: float
    corrected: bool
    drop: float
    class_share: float


Running = TypeVar("Running", bound=Decoupled[Prepared, Memories])


def prepare(method: Decoupled[Prepared, Memories], problem: Problem, store: Store, *, of_classes: bool) -> Prepared:
    """Return the squeezed networks, the crops if recovery starts from them, and the target statistics.

    Args:
        method: the configuration.
        problem: the train set.
        store: keeps them.
        of_classes: whether the statistics of each class are targets too.

    Raises:
        ConfigError: if preprocessing mixes pixels, which then have no range.
    """
    variables, patches = method.prepare_networks(problem, store)
    return Prepared(
        variables, patches, target_statistics(method.networks, variables, problem, store, of_classes=of_classes)
    )


def first_state(method: Decoupled[Prepared, Memories], problem: Problem, prepared: Prepared) -> State[Memories]:
    """Return step 0: groups of images, the first group's optimiser, and empty memories of their statistics."""
    state = method.first_state(problem, groups.Prepared(prepared.variables, prepared.patches))
    first = state.inputs[: method.together * problem.num_classes]
    return state.with_owned(empty_memories(method.networks, prepared.variables, first, problem.num_classes))


def take_turn(
    view: View[Running],
    loss: Loss[Running, Turn, Layers],
    method: Running,
    problem: Problem,
    prepared: Prepared,
    state: State[Memories],
) -> tuple[State[Memories], Metrics]:
    """Return the state after one iteration of one group by the network whose turn it is, with the loss before it.

    Args:
        view: the images as the network sees them; see `kip.methods.decoupled.groups`.
        loss: the loss, with the logits and the memory after the images.
        method: the configuration, which both functions take.
        problem: the train set.
        prepared: what `prepare` returned.
        state: before the iteration.

    Raises:
        NonFiniteError: if the loss is not finite.
    """
    group, state = method.enter_group(problem, state)
    place = state.step % len(method.networks)
    turn = Turn(prepared.variables[place], prepared.targets[place], state.owned[place])
    network = method.networks[place]
    after, memory, metrics = groups.recover(view, loss, method, problem, state, turn, group, network)
    return after._replace(owned=(*state.owned[:place], memory, *state.owned[place + 1 :])), metrics


def target_statistics(
    networks: tuple[Network, ...],
    variables: tuple[Variables, ...],
    problem: Problem,
    store: Store,
    *,
    of_classes: bool,
) -> tuple[Targets, ...]:
    """Return the statistics of the train images in each network, made or found.

    Args:
        networks: the networks.
        variables: those of each.
        problem: the train set.
        store: keeps them.
        of_classes: whether those of each class are targets too.
    """
    counts, made = np.bincount(problem.labels, minlength=problem.num_classes), []
    for network, of_network in zip(networks, variables):
        model = Model(network, problem.num_classes)
        by_class = statistics.of_train_images(model, of_network, problem, store, every=of_classes)
        kept = {name: dict(layer["batch"]) for name, layer in of_network["batch_stats"].items()}
        tables: Layers = {}
        if of_classes:
            tables = {
                name: {part: np.asarray(parts[part], np.float32) for part in parts if not part.endswith("square")}
                for name, parts in by_class.items()
            }
        made.append(Targets(statistics.pool_statistics(by_class, counts) | kept, tables))
    return tuple(made)


def empty_memories(
    networks: tuple[Network, ...], variables: tuple[Variables, ...], images: Any, num_classes: int
) -> Memories:
    """Return each network's memory of the images' statistics before its first batch.

    Args:
        networks: the networks.
        variables: those of each.
        images: a group, (b, H, W, C).
        num_classes: the outputs of the networks.
    """
    memories = []
    for network, of_network in zip(networks, variables):
        model = Model(network, num_classes)
        shapes = jax.eval_shape(lambda x, m=model, v=of_network: statistics.of_batch(m.observe(v, x)[1]), images)
        memories.append(statistics.empty(shapes))
    return tuple(memories)


def running_loss(
    matching: Matching, model: Model, turn: Turn, images: Array, labels: Array, key: Array
) -> tuple[Array, tuple[Array, Layers]]:
    """Return L, (), with the logits (b, c) and the memory after this batch.

    Args:
        matching: the weights of the statistics.
        model: the network whose turn it is.
        turn: its variables, targets and memory.
        images: the images that it sees, (b, H, W, C).
        labels: one-hot (b, c).
        key: of the convolutions that are left out.
    """
    outputs, inputs = model.observe(turn.variables, images)
    kept = {
        name: jax.random.bernoulli(jax.random.fold_in(key, number), 1 - matching.drop)
        for number, name in enumerate(sorted(inputs))
        if name.startswith("Conv")
    }
    memory, ours = statistics.remember(
        turn.memory,
        statistics.of_batch(inputs),
        matching.momentum,
        corrected=matching.corrected,
        kept=kept if matching.drop else {},
    )
    first = "Conv_0" if "Conv_0" in inputs else "Normalise_0"
    total, share = jnp.zeros(()), matching.class_share
    for name, parts in ours.items():
        distance = (1 - share) * _distance(parts, turn.targets.all[name])
        if share:
            of_classes = {part: (labels @ table).mean(0) for part, table in turn.targets.classes[name].items()}
            distance = distance + share * _distance(parts, of_classes)
        counts = kept[name] if matching.drop and name in kept else 1.0
        total = total + counts * (FIRST_LAYER if name == first else 1.0) * distance
    value = per_example("xent", outputs.logits, labels).mean() + matching.strength * total
    return value, (outputs.logits, memory)


def _distance(ours: dict[str, Array], targets: dict[str, Array]) -> Array:
    """Return the sum of the distances of a layer's parts."""
    return sum((norm(ours[part] - targets[part]) for part in ours), jnp.zeros(()))
