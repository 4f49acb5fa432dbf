"""One cell of a table of sets x networks x protocols: what a set is worth to networks that are trained on it.

The protocols are those of `kip.training.protocols`; `kip.evaluate.comparison` makes the table.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from kip import machine, rng
from kip.judges.judge import deviation
from kip.networks import Model, Network
from kip.storage.artefacts import Store
from kip.storage.images import Images
from kip.training.post_training import post_train
from kip.training.predict import accuracy
from kip.training.protocols import Protocol
from kip.training.relabel import stored_bytes as bytes_of_views
from kip.training.squeeze import Squeeze
from kip.training.supervised import Labeller

NUMBER_BYTES = 4
"""Bytes of a pixel's channel and of a label's entry, float32 as sets are exported."""


class Squeezed(NamedTuple):
    """The networks that a set was made from, as far as it says."""

    networks: tuple[Network, ...]
    squeeze: Squeeze
    """The training by which they learned the train split."""
    seed: int
    """The root seed of the set's run."""


class Candidate(NamedTuple):
    """A set to be judged."""

    name: str
    images: np.ndarray
    """The images (n, H, W, C), preprocessed."""
    labels: np.ndarray
    """The labels (n, c)."""
    rate: float | None = None
    """The learning rate that it was learned with; None where it has none."""
    squeezed: Squeezed | None = None
    """The networks that it was made from; None where its method squeezed none."""


class Cell(NamedTuple):
    """One cell of the table: mean and standard deviation over seeds, as fractions."""

    candidate: str
    network: str
    protocol: str
    mean: float
    deviation: float
    accuracies: list[float]
    set_bytes: int
    """The bytes of what the training needs of the set; see `stored_bytes`."""
    seconds: float
    """The time that the trainings and tests of all seeds took."""


def judge(
    candidate: Candidate,
    network: Network,
    protocol: Protocol,
    *,
    test: tuple[Images, np.ndarray],
    mirror_keeps_class: bool,
    teachers: Sequence[Labeller] = (),
    store: Store | None = None,
    seeds: int = 5,
    seed: int = 0,
    show_progress: bool = False,
) -> Cell:
    """Train fresh networks on a set, and test each one's last parameters: nothing is chosen.

    Args:
        candidate: the set.
        network: the student.
        protocol: how it is trained: a member of `PROTOCOLS`, or one that was changed by `dataclasses.replace`.
        test: images (M, H, W, C), preprocessed, and classes (M,).
        mirror_keeps_class: whether images may be flipped in training; `Dataset.mirror_keeps_class` says it.
        teachers: needed by protocols with soft labels; `kip.training.squeeze.squeeze` makes one.
        store: keeps labels of views, where the protocol stores them; None: the one that is shared.
        seeds: how many networks are trained.
        seed: the seed of initial parameters, batches and augmentations.
        show_progress: whether each training shows a bar on stderr.

    Raises:
        ConfigError: if the protocol needs a teacher and there is none, or the rate of a set that has none.
    """
    begun = time.monotonic()
    machine.forget_programs_near_limit()
    model = Model(network, candidate.labels.shape[1])
    keys = jnp.stack([rng.key(seed, f"protocol {protocol.name}", index) for index in range(seeds)])
    trained = post_train(
        model,
        protocol,
        candidate.images,
        candidate.labels,
        keys,
        mirror_keeps_class=mirror_keeps_class,
        seed=seed,
        rate=candidate.rate,
        teachers=teachers,
        store=store,
        show_progress=show_progress,
        what=f"{candidate.name}, {protocol.name}",
    )
    accuracies = [float(accuracy(model, variables, *test)) for variables in trained]
    return Cell(
        candidate.name,
        network.label,
        protocol.name,
        float(np.mean(accuracies)),
        deviation(accuracies),
        accuracies,
        stored_bytes(candidate, protocol),
        round(time.monotonic() - begun, 2),
    )


def seen_of(candidate: Candidate, protocol: Protocol) -> list[np.ndarray]:
    """Return the arrays of a set that networks learn from: its images, and its labels or classes, where they count.

    A teacher's labels do not depend on the set's own: sets that share their images share the training.
    """
    if protocol.needs_teacher and not protocol.class_weight:
        return [candidate.images]
    if protocol.needs_teacher or protocol.loss == "xent":  # which takes the largest label as the class
        return [candidate.images, candidate.labels.argmax(axis=1)]
    return [candidate.images, candidate.labels]


def stored_bytes(candidate: Candidate, protocol: Protocol) -> int:
    """Return how many bytes the training needs of a set: its images and labels, as float32, and classes as bytes.

    | labels | bytes, for n images, c classes and E epochs |
    |---|---|
    | the set's classes | n (2 n beyond 256 classes) |
    | the set's own, or a teacher's on the images | 4 n c |
    | a teacher's on every view | 4 E n c: each epoch sees other views |
    | stored labels of every view | 2 E n c and 8 an update (`kip.training.relabel`); the classes, if they count |

    Soft labels belong to the size of a set: on every view, they can be larger than its images.
    """
    count, classes = candidate.labels.shape
    entries = NUMBER_BYTES * count * classes
    hard = count * (1 if classes <= 256 else 2)
    if protocol.labels == "stored views":
        recipe = protocol.recipe(count, mirror_keeps_class=True)  # flips change no size
        of_labels = bytes_of_views(recipe, count, classes) + hard * (protocol.class_weight > 0)
    else:
        of_labels = {
            "classes": hard,
            "own": entries,
            "teacher": entries,
            "teacher on views": protocol.epochs * entries + hard * (protocol.class_weight > 0),
        }[protocol.labels]
    return NUMBER_BYTES * math.prod(candidate.images.shape) + of_labels


def line(cell: Cell) -> str:
    """Return a cell as a line of text."""
    spread = f" +- {100 * cell.deviation:.2f}" if len(cell.accuracies) > 1 else ""
    return f"{cell.candidate:24} {cell.network:24} {cell.protocol:9} {100 * cell.mean:.2f}{spread} %"


def cross_architecture(cells: Sequence[Cell], *, without: str | None = None) -> dict[tuple[str, str], float]:
    """Return each (set, protocol)'s mean accuracy over networks, those of the label `without` left out."""
    groups: dict[tuple[str, str], list[float]] = {}
    for cell in cells:
        if cell.network != without:
            groups.setdefault((cell.candidate, cell.protocol), []).append(cell.mean)
    return {key: math.fsum(means) / len(means) for key, means in groups.items()}


def of_dict(fields: dict[str, Any]) -> Cell | None:
    """Return the cell of `Cell._asdict()`'s JSON, or None if it is none."""
    try:
        cell = Cell(**fields)
        cell = cell._replace(accuracies=[float(accuracy) for accuracy in cell.accuracies])
        numbers = (cell.mean, cell.deviation, cell.seconds, *cell.accuracies)
        return cell if cell.accuracies and all(map(math.isfinite, numbers)) else None
    except (TypeError, ValueError):
        return None
