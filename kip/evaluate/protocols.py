"""Named protocols of judging a distilled set by training networks on it, and one table of sets x networks x protocols.

| name | labels | loss | optimiser | paper |
|---|---|---|---|---|
| HL | the set's classes | cross-entropy | SGD 0.01, momentum 0.9, decay 5e-4, a tenth from half on | 003, small scale |
| SL | a teacher's logits on the images, fixed | KL at T = 20, without T^2 | AdamW 1e-3, cosine | 003, small scale |
| SL+KD | a teacher's logits on every augmented view | as SL | as SL | 003 |
| DC-BENCH | the set's classes | as HL | as HL | Cui et al. 2022, after Zhao and Bilen 2021 |
| OWN | the set's own labels, learned or not | squared error | as HL | none: what the set was learned for |

All train 300 epochs in batches of 256 (DC-BENCH: 1000 epochs, since it augments), with DSA's augmentation: one
operation a batch, no flips for grey images. HL and DC-BENCH take the argmax of learned labels. Nothing is searched, and
the last parameters are tested. `dataclasses.replace(PROTOCOLS[...], epochs=...)` is for smaller machines.

References: "Rethinking Dataset Distillation: Hard Truths About Soft Labels", Table 1 (its section 2); Cui et al. 2022,
"DC-BENCH: Dataset Condensation Benchmark".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from kip import rng
from kip.config import value
from kip.errors import ConfigError
from kip.evaluate.augmentation import Augmentation
from kip.evaluate.spread import deviation
from kip.evaluate.training import Loss, Recipe, Teacher, accuracy, train
from kip.finite import Model, Network

TEMPERATURE = 20.0


@value
class Protocol:
    """How a set is judged."""

    name: str
    """For tables."""
    paper: str
    """Where it is from."""
    labels: Literal["own", "classes", "teacher", "teacher on views"]
    """What the network is trained on."""
    loss: Loss = "xent"
    """As `Recipe.loss`."""
    optimizer: Literal["momentum", "adamw"] = "momentum"
    """As `Recipe.optimizer`."""
    rate: Annotated[float, Field(gt=0)] = 0.01
    """Learning rate at its highest."""
    decay: Annotated[float, Field(ge=0)] = 5e-4
    """L2 (momentum) or weight decay (AdamW)."""
    schedule: Literal["constant", "cosine", "halfway"] = "halfway"
    """As `Recipe.schedule`."""
    epochs: Annotated[int, Field(ge=1)] = 300
    """Passes over the set."""
    batch: Annotated[int, Field(ge=1)] = 256
    """Images of an update."""
    augment: Augmentation | None = None
    """None: `dsa`, without flips for grey images."""

    def recipe(self, count: int, channels: int) -> Recipe:
        """Return the training for a set of `count` images."""
        augment: Augmentation = self.augment or ("dsa_digits" if channels == 1 else "dsa")
        steps = self.epochs * max(1, count // self.batch)
        temperature = TEMPERATURE if self.loss == "kl" else 1.0
        return Recipe(
            self.loss,
            temperature=temperature,
            optimizer=self.optimizer,
            schedule=self.schedule,
            steps=steps,
            batch=self.batch,
            augment=augment,
            evaluations=1,
            keep="last",
        )


_RETHINKING = "Rethinking Dataset Distillation: Hard Truths About Soft Labels, Table 1"
_SOFT: dict[str, Any] = {"loss": "kl", "optimizer": "adamw", "rate": 1e-3, "decay": 1e-2, "schedule": "cosine"}
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("HL", _RETHINKING, "classes"),
        Protocol("SL", _RETHINKING, "teacher", **_SOFT),
        Protocol("SL+KD", _RETHINKING, "teacher on views", **_SOFT),
        Protocol("DC-BENCH", "Cui et al. 2022, DC-BENCH", "classes", epochs=1000),
        Protocol("OWN", "none", "own", loss="mse"),
    )
}


class Candidate(NamedTuple):
    """A set to be judged."""

    name: str
    images: np.ndarray
    """(n, H, W, C), preprocessed."""
    labels: np.ndarray
    """(n, c)."""


class Cell(NamedTuple):
    """One cell of the table: mean and standard deviation over seeds, as fractions."""

    candidate: str
    network: str
    protocol: str
    mean: float
    deviation: float
    accuracies: list[float]


def table(
    candidates: Sequence[Candidate],
    networks: Sequence[Network],
    protocols: Sequence[Protocol],
    *,
    validation: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    teacher: Teacher | None = None,
    seeds: int = 5,
    seed: int = 0,
    progress: Callable[[Cell], Any] = lambda cell: None,
) -> list[Cell]:
    """Judge every set, with every network, under every protocol.

    Args:
        candidates: the sets.
        networks: the students.
        protocols: of `PROTOCOLS`, or changed by `dataclasses.replace`.
        validation: images (M, H, W, C), preprocessed, and classes (M,).
        test: likewise.
        teacher: needed by protocols with soft labels; `train_teacher` makes one.
        seeds: networks of each cell.
        seed: of initial parameters, batches and augmentations.
        progress: called with each cell, as soon as it is known.

    Raises:
        ConfigError: if a protocol needs a teacher and there is none.
    """
    soft = [protocol.name for protocol in protocols if protocol.labels.startswith("teacher")]
    if soft and teacher is None:
        raise ConfigError(f"teacher of {', '.join(soft)}", got="none", expected="a trained network")
    cells = []
    for candidate in candidates:
        for network in networks:
            for protocol in protocols:
                model = Model(network, candidate.labels.shape[1])
                recipe = protocol.recipe(len(candidate.images), candidate.images.shape[3])
                labels = _labels(protocol, candidate, teacher)
                on_views = teacher if protocol.labels == "teacher on views" else None
                found = []
                for index in range(seeds):
                    keys = _key(seed, f"protocol {protocol.name}", index)
                    rates, decays = np.array([[protocol.rate], [protocol.decay]], np.float32)
                    trained = train(
                        model, recipe, keys, rates, decays, candidate.images, labels, validation, teacher=on_views
                    )
                    found.append(float(accuracy(model, trained.variables[0], *test)))
                mean, spread = float(np.mean(found)), deviation(found)
                cells.append(Cell(candidate.name, network.label, protocol.name, mean, spread, found))
                progress(cells[-1])
    return cells


def line(cell: Cell) -> str:
    """Return a cell as a line of text."""
    return (
        f"{cell.candidate:16} {cell.network:24} {cell.protocol:9} {100 * cell.mean:.2f} +- {100 * cell.deviation:.2f} %"
    )


def cross_architecture(cells: Sequence[Cell], *, without: str | None = None) -> dict[tuple[str, str], float]:
    """Return each (set, protocol)'s mean accuracy over networks, those of the label `without` left out."""
    groups: dict[tuple[str, str], list[float]] = {}
    for cell in cells:
        if cell.network != without:
            groups.setdefault((cell.candidate, cell.protocol), []).append(cell.mean)
    return {key: math.fsum(means) / len(means) for key, means in groups.items()}


def train_teacher(
    network: Network,
    images: np.ndarray,
    labels: np.ndarray,
    validation: tuple[np.ndarray, np.ndarray],
    *,
    steps: int,
    rate: float = 1e-3,
    batch: int = 100,
    seed: int = 0,
) -> tuple[Teacher, float]:
    """Train a teacher on natural images by cross-entropy (AdamW, cosine, the best evaluation on validation).

    Args:
        network: its architecture.
        images: (N, H, W, C), preprocessed. labels: (N, c).
        validation: images and classes.
        steps: updates, in batches of `batch`.
        rate: the learning rate at its highest.
        batch: images of an update.
        seed: of initial parameters and batches.

    Returns:
        The teacher, and its validation accuracy.
    """
    recipe = Recipe("xent", optimizer="adamw", steps=steps, batch=batch, evaluations=4)
    model = Model(network, labels.shape[1])
    rates, decays = np.array([[rate], [5e-4]], np.float32)
    trained = train(model, recipe, _key(seed, "teacher", 0), rates, decays, images, labels, validation)
    return Teacher(model, trained.variables[0]), float(trained.validation_accuracy[0])


def k_centers(images: np.ndarray, classes: np.ndarray, per_class: int) -> np.ndarray:
    """Choose images by greedy K-centers in each class: the next is the one farthest from all that are chosen.

    The first of a class is the one nearest to its mean, so that the choice has no luck in it.

    Args:
        images: (N, H, W, C), preprocessed. classes: integers (N,).
        per_class: how many of each class.

    Returns:
        int64 indices, grouped by class.
    """
    chosen = []
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        flat = images[members].reshape(len(members), -1).astype(np.float64)
        nearest = np.full(len(members), np.inf)
        pick = int(((flat - flat.mean(0)) ** 2).sum(1).argmin())
        for _ in range(per_class):
            chosen.append(members[pick])
            nearest = np.minimum(nearest, ((flat - flat[pick]) ** 2).sum(1))
            pick = int(nearest.argmax())
    return np.array(chosen, np.int64)


def _labels(protocol: Protocol, candidate: Candidate, teacher: Teacher | None) -> np.ndarray:
    if protocol.labels == "teacher" and teacher is not None:
        return np.asarray(teacher.model.apply(teacher.variables, jnp.asarray(candidate.images)).logits)
    return candidate.labels


def _key(seed: int, purpose: str, index: int) -> jax.Array:
    return jax.random.key(int(rng.generator(seed, purpose, index).integers(2**31)))[None]
