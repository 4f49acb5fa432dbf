"""Choosing images by where they are in a space.

| `by` | choice | what it needs of the space |
|---|---|---|
| `random` | at random | nothing |
| `herding` | the mean of the chosen images follows the mean | inner products |
| `k_centers` | greedy, the farthest from all that are chosen; the one nearest to the mean first | distances |
| `medoids` | the images nearest to the centres of k-means | vectors: `pixels` or `network` |
| `facility_location` | sum_i max_{j chosen} s_ij, s = 1/2 + 1/2 cos | all inner products |
| `graph_cut` | sum_{i, j chosen} s_ij - trade_off sum_{i, j both chosen} s_ij, with the same s | all inner products |
| `craig` | facility location of distances; `weights` are the sizes of clusters | all distances |
| `glister` | gradients that lead downhill on the loss of all images, or of a class | `gradients` |
| `leverage` | a draw by ridge leverage scores | all inner products |
| `determinantal` | greedy maximum of the determinant of the Gram matrix | inner products |

| `space` | an image x is |
|---|---|
| `pixels` | its preprocessed pixels |
| `network` | the last features of a network that learned the train set |
| `gradients` | its gradient of cross-entropy by that network's last dense layer, as DeepCore takes it |
| `kernel` | its feature of a kernel, such as the NTK: inner products are the kernel's values |

`kip.methods.selection.greedy` has the formulas and sources. The network is the first one of a recording
(`kip.training.records`), which is shared between runs. All but `random` and `glister` choose in each class on its own:
inner products take m^2 numbers for a class of m images, and `candidates` bounds m. `glister` chooses from the images of
all classes at once, as many of each class as the others, so that the gradients serve the loss of all images; with
`glister_on` "class" it chooses in each class for the loss of that class, as DeepCore does. Its last layer begins at 0:
at the `trained` one the mean gradient of the images that it was trained on is about 0, each choice answers the step of
the one before, and the hardest images are taken. The paper has validation images, for which that gradient is not 0.

`k_centers` is farthest-first, which takes outliers where few images are chosen. Paper 003, "Hard Truths About Soft
Labels", has better K-centers on CIFAR-100 than random images, and no space or rule for them; `medoids` come near to its
figures, and farthest-first is far below (see the config `rethinking`).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from kip import krr
from kip.config import to_dict, value
from kip.errors import ConfigError
from kip.kernels.architecture import Architecture, Kernel
from kip.methods.contract import Needs
from kip.methods.problem import Problem
from kip.methods.selection import greedy
from kip.methods.selection.points import Gram, Points, Vectors, last_layer_gradients
from kip.methods.selection.selection import Choice, Selection, by_class, kept
from kip.methods.selection.uncertainty import softmax
from kip.rng import generator
from kip.storage.artefacts import Store, digest
from kip.training.records import Recording, Records, record

By = Literal[
    "random", "herding", "k_centers", "medoids", "facility_location", "graph_cut", "craig", "glister", "leverage",
    "determinantal",
]  # fmt: skip
Space = Literal["pixels", "network", "gradients", "kernel"]
PADDING = 64
"""Images of a class are repeated up to a multiple of this where kernels are computed."""


@value
class Geometric(Selection):
    """Choose natural images by where they are in a space: random, herding, k-centers, facility location, ..."""

    by: By = "k_centers"
    """The rule; see the table of `kip.methods.selection.geometric`."""
    space: Space = "pixels"
    """What an image is, as a point."""
    candidates: Annotated[int, Field(ge=1)] | None = None
    """Images of each class, drawn at random, that are chosen from; None: all."""
    recording: Recording = Recording()
    """The network of `network` and `gradients`, as it learns the train set."""
    kernel: Kernel = Architecture()
    """The kernel of `kernel`."""
    ridge: krr.Ridge = krr.Ridge(1e-3)
    """Regulariser of `leverage`: the larger, the fewer directions count."""
    trade_off: Annotated[float, Field(ge=0)] = 1.0
    """How much `graph_cut` avoids images that are similar to chosen ones."""
    glister_on: Literal["all", "class"] = "all"
    """The images whose mean loss the choice of `glister` lowers: all train images, or those of the same class."""
    last_layer: Literal["zero", "trained"] = "zero"
    """The last layer at which `glister` takes gradients: all 0, as a training on the chosen images begins, or the
    trained one, as DeepCore has it."""
    step_size: Annotated[float, Field(gt=0)] = 0.2
    """The step of the last layer after each choice of `glister`: by how much an image's own logits move, as a multiple
    of its error, for an image whose features have the mean length."""
    name: Literal["geometric"] = "geometric"

    def __post_init__(self) -> None:
        if not self.balanced and self.by != "random":
            raise ConfigError("balanced", got=f"False with by={self.by!r}", expected="True, or by='random'")
        if self.by == "medoids" and self.space not in ("pixels", "network"):
            raise ConfigError("space of medoids", got=repr(self.space), expected="'pixels' or 'network'")
        if self.by == "glister" and self.space != "gradients":
            raise ConfigError("space of glister", got=repr(self.space), expected="'gradients'")
        for option, default in (("glister_on", "all"), ("last_layer", "zero")):
            if (setting := getattr(self, option)) != default and self.by != "glister":
                raise ConfigError(option, got=f"{setting!r} with by={self.by!r}", expected=repr(default))
        if self.candidates is not None and self.pruned is None and self.candidates < self.images_per_class:
            expected = f"at least images_per_class, {self.images_per_class}"
            raise ConfigError("candidates", got=self.candidates, expected=expected)
        if self.candidates is not None and self.pruned is not None:
            raise ConfigError("candidates", got=f"{self.candidates} with pruned={self.pruned}", expected="one of them")

    @property
    def label(self) -> str:
        """The rule, the space and the network that judges."""
        space = self.kernel.label if self.space == "kernel" else self.space
        rule = self.by if self.by == "random" else f"{self.by} in {space}"
        return f"{rule} ({self.network.label})"

    @property
    def needs(self) -> Needs:
        """Images of each class, and the kernel where it is the space."""
        kernels = (self.kernel,) if self.space == "kernel" and self.by != "random" else ()
        at_once = 0.0 if self.by == "random" or self.space in ("network", "gradients") else self.candidates or math.inf
        return Needs(
            None if self.pruned else self.images_per_class, kernels=kernels, augmentation=False, class_images=at_once
        )

    def choose(self, problem: Problem, store: Store) -> Choice:
        """Return the choice, class by class, or at once where `glister` is on all images."""
        if self.by == "random":
            indices = self.random(problem)
            return Choice(indices, np.ones(len(indices), np.float32))
        records = None
        if self.space in ("network", "gradients"):
            records = record(
                self.recording, self.network, problem.inputs, problem.labels, problem.num_classes, seed=problem.seed,
                mirror_keeps_class=problem.mirror_keeps_class, store=store,
            )  # fmt: skip
        if self.by == "glister" and self.glister_on == "all":
            assert records is not None
            groups = enumerate(self.groups(problem))
            members = np.concatenate([self._candidates(problem, group, label) for label, (group, _) in groups])
            indices = by_class(self._downhill(problem, records, members, self.budgets(problem)), problem.labels)
            return Choice(indices, np.ones(len(indices), np.float32))
        identity = {"method": to_dict(self), "seed": problem.seed, "set": digest(problem.inputs, problem.labels)}
        parts = []
        with store.progress(problem.num_classes, f"{self.by} in {self.space}") as bar:
            for label, (members, budget) in enumerate(self.groups(problem)):
                part = store.artefact(f"choice-{label}", identity)
                parts.append(kept(part, budget, partial(self._of_class, problem, records, members, budget, label)))
                bar.update()
        return Choice(*(np.concatenate(field) for field in zip(*parts)))

    def _of_class(
        self, problem: Problem, records: Records | None, members: np.ndarray, budget: int, label: int
    ) -> Choice:
        """Return the choice of a class."""
        members = self._candidates(problem, members, label)
        weights = np.ones(budget, np.float32)
        if self.by == "glister":
            assert records is not None
            of_class = np.where(np.arange(problem.num_classes) == label, budget, 0)
            return Choice(self._downhill(problem, records, members, of_class), weights)
        points = self._points(problem, records, members)
        if self.by == "craig":
            similarity = greedy.nearness(points)
            chosen = greedy.facility_location(similarity, budget)
            return Choice(members[chosen], greedy.cluster_sizes(similarity, chosen))
        return Choice(members[self._positions(points, budget, problem.seed, label)], weights)

    def _candidates(self, problem: Problem, members: np.ndarray, label: int) -> np.ndarray:
        """Return the images of a class that are chosen from, (m,) indices."""
        if self.candidates is None or self.candidates >= len(members):
            return members
        draw = generator(problem.seed, "candidates", label)
        return np.sort(draw.choice(members, self.candidates, replace=False))

    def _downhill(self, problem: Problem, records: Records, members: np.ndarray, budgets: np.ndarray) -> np.ndarray:
        """Return the choice of `glister` from some images, for the loss of these images."""
        logits = records.last(members)
        start = np.zeros_like(logits) if self.last_layer == "zero" else logits
        features = records.features(members)
        return members[greedy.glister(features, start, problem.labels[members], budgets, self.step_size)]

    def _positions(self, points: Points, budget: int, seed: int, label: int) -> np.ndarray:
        if self.by == "herding":
            return greedy.herding(points, budget)
        if self.by == "k_centers":
            return greedy.k_centers(points, budget)
        if self.by == "medoids":
            assert isinstance(points, Vectors)
            return greedy.medoids(points.vectors, budget, int(generator(seed, "k-means", label).integers(2**31)))
        if self.by == "determinantal":
            return greedy.determinantal(points, budget)
        if self.by == "leverage":
            return greedy.leverage(points.gram(), budget, self.ridge, generator(seed, "leverage", label))
        similarity = greedy.cosine_similarity(points)
        if self.by == "graph_cut":
            return greedy.graph_cut(similarity, budget, self.trade_off)
        return greedy.facility_location(similarity, budget)

    def _points(self, problem: Problem, records: Records | None, members: np.ndarray) -> Points:
        """Return the images of a class as points of the space."""
        if self.space == "pixels":
            return Vectors(problem.inputs[members].reshape(len(members), -1))
        if self.space == "kernel":
            # Some images are repeated, so that classes of about the same size share their compiled tiles.
            padded = np.resize(members, -(-len(members) // PADDING) * PADDING)
            k_ss = problem.blocks.forward(self.kernel, problem.inputs[padded], problem.inputs[:0]).k_ss
            return Gram(k_ss[: len(members), : len(members)])
        assert records is not None
        features = records.features(members)
        if self.space == "network":
            return Vectors(features)
        residuals = softmax(records.last(members)) - np.eye(problem.num_classes)[problem.labels[members]]
        return last_layer_gradients(features, residuals)
