"""DCS, the distillation correlation score: does a method's own loss rank sets as networks that are trained on them do?

Many subsets of the train split, of several sizes and of good and bad choices, are scored twice: by the loss that a
method would minimise if the subset were its set, and by the test error of networks that are trained on the subset.

    DCS = Spearman's correlation of loss and error over subsets, the number of images partialled out:
    r_le.n = (r_le - r_ln r_en) / sqrt((1 - r_ln^2) (1 - r_en^2)),    r the correlations of ranks.

Near 1, the method descends what makes sets good; near 0, its loss says nothing of them. A method's loss is the one that
its `step` reports, the mean over `draws` steps that are spread over its run: with other networks, kernels and target
batches, as the run would meet them. Subsets are:

| kind | images of each class |
|---|---|
| `random` | drawn at random |
| `repeated` | half as many, drawn at random, each twice |
| `near` | those nearest to one that is drawn at random, in preprocessed pixels |
| `far` | K-centers: each the farthest from those before it, beginning with one drawn at random |

Reference: "Rethinking Dataset Distillation: Hard Truths About Soft Labels", section 4 and supplement, 7.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast

import numpy as np
from pydantic import Field

from kip import data, experiment, preprocess
from kip.blocks import KernelBlocks
from kip.config import value
from kip.data import Dataset
from kip.errors import ConfigError, NonFiniteError
from kip.evaluate.cells import Candidate
from kip.evaluate.setting import Setting, Shared
from kip.experiment import Experiment
from kip.methods.contract import Method
from kip.methods.problem import Problem
from kip.methods.selection import greedy
from kip.methods.selection.points import Vectors
from kip.networks import Network
from kip.networks.model import CONVNET
from kip.progress import counted, inner_stage
from kip.rng import generator
from kip.runs.setup import check_data, problem_of
from kip.storage.artefacts import Store, digest, identified
from kip.storage.files import atomic_write
from kip.storage.images import Images
from kip.storage.json_files import read_object
from kip.training.protocols import PROTOCOLS

Kind = Literal["random", "repeated", "near", "far"]
KINDS: tuple[Kind, ...] = ("random", "repeated", "near", "far")
CELLS, LOSSES = "cells", "losses"


@value
class Correlation:
    """The subsets, and how they are judged."""

    per_class: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 2, 5, 10)
    """The sizes of the subsets, in images per class."""
    subsets: Annotated[int, Field(ge=4)] = 60
    """Subsets that are scored: sizes and kinds take turns."""
    draws: Annotated[int, Field(ge=1)] = 5
    """Over how many steps a method's loss is averaged."""
    network: Network = CONVNET
    """The network that is trained on each subset."""
    epochs: Annotated[int, Field(ge=1)] | None = None
    """The number of passes over the subset. None takes the protocol's own."""
    seeds: Annotated[int, Field(ge=1)] = 1
    """Networks that are trained on each subset."""
    seed: Annotated[int, Field(ge=0)] = 0
    """The seed of the subsets, networks and losses."""


class Subset(NamedTuple):
    """A subset of the train split: `per_class` images of each class, by class; an image may occur twice."""

    kind: Kind
    per_class: int
    indices: np.ndarray


def correlate(
    configurations: Sequence[str],
    correlation: Correlation,
    *,
    out: Path,
    data_dir: Path | None = None,
    show_progress: bool = False,
    progress: Callable[[str], Any] = lambda line: None,
) -> dict[str, Any]:
    """Return the errors of subsets, each method's losses of them, and the correlations, JSON-ready.

    Args:
        configurations: whose methods' losses are computed; of one data set, each with its own preprocessing.
        correlation: the subsets and networks. Networks see images with the first configuration's preprocessing.
        out: the folder that keeps errors and losses, so that a second start repeats none.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        show_progress: whether trainings show bars on stderr.
        progress: called with a line for each subset and loss.

    Returns:
        `subsets` (kind, images_per_class, error, and `losses` by configuration) and `scores` by configuration:
        `spearman`, and `dcs`, which is None where all subsets have one size.

    Raises:
        ConfigError: if there is no configuration, they differ in data, a class has too few images, or a method's loss
            is the same for all sets.
        NonFiniteError: if a loss is not finite.
        KipError: whatever a method raises.
    """
    if not configurations:
        raise ConfigError("configurations", got="none", expected="at least one")
    wanted = {name: experiment.load(name) for name in configurations}
    first = next(iter(wanted.values()))
    for name, given in wanted.items():
        if given.data != first.data:
            raise ConfigError(
                "configurations of one correlation",
                got=f"{name} with other data than {configurations[0]}",
                expected="one data set",
            )
    shared = Shared(
        first.data,
        first.preprocess,
        correlation.seed,
        cells=out / CELLS,
        seeds=correlation.seeds,
        data_dir=data_dir,
    )
    setting = Setting(shared, show_progress=show_progress)
    inputs, labels = setting.transform.apply(setting.dataset.train.images), setting.dataset.train.labels
    chosen = subsets(inputs, labels, correlation)
    protocol = PROTOCOLS["HL"]
    if correlation.epochs is not None:
        protocol = dataclasses.replace(protocol, epochs=correlation.epochs)
    rows: list[dict[str, Any]] = []
    for number, subset in enumerate(counted(chosen, len(chosen), "subsets", shown=show_progress)):
        of_subset = labels[subset.indices]
        candidate = Candidate(
            f"{subset.kind} {subset.per_class}",
            inputs[subset.indices],
            data.centred_one_hot(of_subset, setting.dataset.num_classes),
        )
        cell = setting.cell(candidate, correlation.network, protocol)
        about = {"kind": subset.kind, "images_per_class": subset.per_class}
        rows.append({**about, "error": 1 - cell.mean, "losses": {}})
        progress(f"subset {number + 1} of {len(chosen)}, {candidate.name} a class: error {100 * (1 - cell.mean):.2f} %")
    for name, given in wanted.items():
        with inner_stage(f"losses of {name}"):
            losses = _losses(name, given, setting.dataset, chosen, correlation, out / LOSSES, data_dir, progress)
        for row, loss in zip(rows, losses):
            row["losses"][name] = loss
    errors, sizes = [row["error"] for row in rows], [row["images_per_class"] for row in rows]
    scores = {}
    for name in wanted:
        losses = [row["losses"][name] for row in rows]
        partial = partial_spearman(losses, errors, sizes) if len(set(sizes)) > 1 else None
        scores[name] = {"spearman": spearman(losses, errors), "dcs": partial}
    return {"network": correlation.network.label, "subsets": rows, "scores": scores}


def subsets(inputs: Images, labels: np.ndarray, correlation: Correlation) -> list[Subset]:
    """Return the subsets: of each size in turn, each kind in turn; of one image a class, random ones.

    Args:
        inputs: train images, preprocessed, (N, H, W, C).
        labels: their classes, (N,).
        correlation: how many, of which sizes, and the seed.

    Raises:
        ConfigError: if a class has fewer images than the largest size.
    """
    classes = [np.flatnonzero(labels == label) for label in range(int(labels.max()) + 1)]
    smallest = min(map(len, classes))
    if max(correlation.per_class) > smallest:
        raise ConfigError("per_class", got=max(correlation.per_class), expected=f"at most {smallest}, a class's images")
    made = []
    for number in range(correlation.subsets):
        turn, place = divmod(number, len(correlation.per_class))
        per_class = correlation.per_class[place]
        kind: Kind = "random" if per_class == 1 else KINDS[turn % len(KINDS)]
        parts = []
        for label, members in enumerate(classes):
            draw = generator(correlation.seed, f"subset, {kind}", number, label)
            parts.append(members[_chosen(kind, inputs[members], per_class, draw)])
        made.append(Subset(kind, per_class, np.concatenate(parts)))
    return made


def own_loss(method: Method, problem: Problem, prepared: Any, indices: np.ndarray, draws: int) -> float:
    """Return the mean loss that a method's steps report if its set were these train images with their classes.

    Args:
        method: the method, for as many images of each class as there are.
        problem: the train set.
        prepared: what `method.prepare` returned.
        indices: into the train split, as many of each class.
        draws: steps, spread over the run's.

    Raises:
        ConfigError: if the method's set is not made of images of each class, or its steps report no loss.
        NonFiniteError: if a loss is not finite.
    """
    state, who = method.init(problem, prepared), f"method {method.name} of a correlation"
    if method.labels_are == "representations" or len(state.inputs) != len(indices):
        raise ConfigError(
            who,
            got=f"a set of {len(state.inputs)} images",
            expected=f"{len(indices)} images, as many of each class",
            remedy="Leave it out.",
        )
    # Methods order their sets by class, or in groups of one image a class: each place gets an image of its class.
    order = np.empty(len(indices), np.int64)
    order[np.argsort(state.class_index, kind="stable")] = indices[np.argsort(problem.labels[indices], kind="stable")]
    classes = problem.labels[order]
    if not np.array_equal(classes, state.class_index):
        raise ConfigError(who, got="a set of other classes", remedy="Leave it out.")
    labels = np.asarray(state.labels)
    if any(np.ptp(labels[classes == label], axis=0).any() for label in np.unique(classes)):
        raise ConfigError(
            who,
            got="first labels that differ within a class",
            expected="labels that are made from classes",
            remedy="Leave it out.",
        )
    state = state._replace(inputs=problem.inputs[order], statistics=problem.transform.statistics(problem.pixels[order]))
    losses = []
    for step in np.linspace(0, method.steps, draws, endpoint=False).astype(int):
        _, metrics = method.step(problem, prepared, state._replace(step=int(step)))
        if "loss" not in metrics:
            raise ConfigError(who, got="steps without a loss", remedy="Leave it out.")
        losses.append(float(metrics["loss"]))
    if not np.isfinite(losses).all():
        raise NonFiniteError(f"the loss of {method.name} on a subset is NaN or infinite")
    return float(np.mean(losses))


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return the correlation of ranks; None where one side is all equal."""
    from scipy.stats import spearmanr

    return None if np.ptp(a) == 0 or np.ptp(b) == 0 else float(spearmanr(a, b).statistic)


def partial_spearman(a: Sequence[float], b: Sequence[float], given: Sequence[float]) -> float | None:
    """Return the correlation of ranks of a and b with the ranks of a third partialled out of both.

    None comes back where one side is all equal, or the third explains one of them.
    """
    ab, ac, bc = spearman(a, b), spearman(a, given), spearman(b, given)
    if ab is None or ac is None or bc is None or max(abs(ac), abs(bc)) > 1 - 1e-12:
        return None
    return float((ab - ac * bc) / np.sqrt((1 - ac**2) * (1 - bc**2)))


def _chosen(kind: Kind, points: np.ndarray, count: int, draw: np.random.Generator) -> np.ndarray:
    """Return places among a class's images, (count,)."""
    if kind == "random":
        return draw.choice(len(points), count, replace=False)
    if kind == "repeated":
        return np.resize(draw.choice(len(points), -(-count // 2), replace=False), count)
    vectors = Vectors(points.reshape(len(points), -1))
    first = int(draw.integers(len(points)))
    if kind == "near":
        return np.argsort(vectors.distances(first), kind="stable")[:count]
    return greedy.k_centers(vectors, count, first)


def _losses(
    name: str,
    given: Experiment,
    dataset: Dataset,
    chosen: Sequence[Subset],
    correlation: Correlation,
    folder: Path,
    data_dir: Path | None,
    progress: Callable[[str], Any],
) -> list[float]:
    """Return a method's loss of each subset, those that are known and those that are computed now and kept."""
    if "images_per_class" not in {field.name for field in dataclasses.fields(cast(Any, given.method))}:
        raise ConfigError(
            f"method {given.method.name} of a correlation",
            got="a set that has no number of images per class",
            remedy="Leave it out.",
        )
    transform, train_digest = preprocess.fit(given.preprocess, dataset.train.images), dataset.train.digest()
    losses: dict[int, float] = {}
    with KernelBlocks(given.blocks) as blocks:
        for per_class in dict.fromkeys(subset.per_class for subset in chosen):
            sized = dataclasses.replace(
                given,
                seed=correlation.seed,
                reference=None,
                method=dataclasses.replace(cast(Any, given.method), images_per_class=per_class),
            )
            check_data(sized, dataset)
            problem: Problem | None = None
            prepared: Any = None
            for number, subset in enumerate(chosen):
                if subset.per_class != per_class:
                    continue
                identity = [sized.to_dict(), train_digest, digest(subset.indices), correlation.draws]
                path = folder / f"{identified(identity)}.json"
                known = read_object(path, ["loss"])
                if known is None:
                    if problem is None:
                        problem = problem_of(sized, dataset, transform, blocks, data_dir)
                        prepared = sized.method.prepare(problem, Store(folder))
                    known = {"loss": own_loss(sized.method, problem, prepared, subset.indices, correlation.draws)}
                    atomic_write(path, lambda file, known=known: file.write(json.dumps(known).encode()))
                losses[number] = float(known["loss"])
                progress(f"{name}, subset {number + 1} of {len(chosen)}: loss {losses[number]:.5g}")
            of_size = [number for number, subset in enumerate(chosen) if subset.per_class == per_class]
            if len(of_size) > 1 and len({losses[number] for number in of_size}) == 1:
                raise ConfigError(
                    f"method {given.method.name} of a correlation",
                    got=f"the loss {losses[of_size[0]]:.5g} for all of {len(of_size)} different sets",
                    expected="a first step whose loss is that of the set's images",
                    remedy="Leave it out.",
                )
    return [losses[number] for number in range(len(chosen))]
