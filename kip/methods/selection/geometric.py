"""Rules that choose images by their position in a space (`kip.methods.selection.spaces`), or at random.

Each rule is a frozen value; `choose(task)` returns its choice. The formulas are computed by the pure functions of
`kip.methods.selection.greedy`. All rules choose in each class on its own, but for `GLISTER` with `on` "all" and
`Random` with `balanced` off. Inner products take m^2 numbers for a class of m images, and `candidates` bounds m.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from typing_extensions import final

from kip import krr
from kip.config import value
from kip.methods.contract import Needs
from kip.methods.selection import greedy
from kip.methods.selection.points import Points
from kip.methods.selection.spaces import Pixels, Space, VectorSpace
from kip.methods.selection.task import Choice, Task, by_class, keep_choice, random_images, with_equal_weights
from kip.rng import generator
from kip.training.records import Recording, Records

Candidates = Annotated[int, Field(ge=1)]
Draw = Callable[[str], np.random.Generator]
"""A function of a purpose that returns a generator for the draws of one class."""


@final
@value
class Random:
    """Random images: the baseline of every other rule."""

    balanced: bool = True
    """Draw from each class its own number of images. Off draws as many images from all, whatever their class."""
    kind: Literal["random"] = "random"

    def choose(self, task: Task) -> Choice:
        """Return the choice; balanced, it is what learning methods begin with."""
        problem = task.problem
        if self.balanced:
            return with_equal_weights(random_images(problem, task.per_class, task.budgets))
        draw = generator(problem.seed, "random choice")
        drawn = draw.choice(len(problem.labels), int(task.budgets.sum()), replace=False)
        return with_equal_weights(by_class(drawn, problem.labels))


@value
class InSpace(abc.ABC):
    """A rule that picks from the images of each class as points of a space."""

    space: Space = Pixels()
    """The space in which images are points."""
    candidates: Candidates | None = None
    """The number of images of each class, drawn at random, that are chosen from. None means all."""

    @property
    def needs(self) -> Needs:
        """The demands of the space on a data set."""
        return self.space.needs(self.candidates)

    def choose(self, task: Task) -> Choice:
        """Return the choice, class by class."""
        points = self.space.points(task)

        def of_class(members: np.ndarray, count: int, label: int) -> Choice:
            picked = self.pick(points(members), count, draws_of(task, label))
            return Choice(members[picked.indices], picked.weights)

        return class_by_class(task, self.candidates, of_class)

    @abc.abstractmethod
    def pick(self, points: Points, count: int, draw: Draw) -> Choice:
        """Return the positions of `count` chosen points, and their weights."""


@final
@value
class Herding(InSpace):
    """Herding: the mean of the chosen images follows the mean of their class.

    With mu the mean of the class and x_1 ... x_i the images that are chosen, the next one is

        argmin_x |(i + 1) mu - (x_1 + ... + x_i) - x|.

    DeepCore's public code takes the farthest, by an argmax.

    Reference: Welling 2009, "Herding Dynamical Weights to Learn".
    """

    kind: Literal["herding"] = "herding"

    def pick(self, points: Points, count: int, draw: Draw) -> Choice:
        """Return the positions of `count` chosen points, and their weights."""
        return with_equal_weights(greedy.herding(points, count))


@final
@value
class KCenters(InSpace):
    """Greedy K-centers: each time the image farthest from all that are chosen; first the one nearest to the mean.

    The rule is farthest-first, which takes outliers where few images are chosen. Paper 003, "Hard Truths About Soft
    Labels", has better K-centers on CIFAR-100 than random images, and no space or rule for them; `Medoids` come near to
    its figures, and farthest-first is far below (see the config `rethinking`).

    Reference: Sener and Savarese 2018, "Active Learning for Convolutional Neural Networks: A Core-Set Approach".
    """

    kind: Literal["k_centers"] = "k_centers"

    def pick(self, points: Points, count: int, draw: Draw) -> Choice:
        """Return the positions of `count` chosen points, and their weights."""
        return with_equal_weights(greedy.k_centers(points, count))


@final
@value
class Medoids:
    """Medoids: the image nearest to each centre of k-means, with as many centres as images are chosen.

    DC-BENCH (Cui et al. 2022) has it as a baseline, on the features of a network.
    """

    space: VectorSpace = Pixels()
    """The space in which images are points."""
    candidates: Candidates | None = None
    """The number of images of each class, drawn at random, that are chosen from. None means all."""
    kind: Literal["medoids"] = "medoids"

    @property
    def needs(self) -> Needs:
        """The demands of the space on a data set."""
        return self.space.needs(self.candidates)

    def choose(self, task: Task) -> Choice:
        """Return the choice, class by class."""
        points = self.space.points(task)

        def of_class(members: np.ndarray, count: int, label: int) -> Choice:
            seed = int(draws_of(task, label)("k-means").integers(2**31))
            return with_equal_weights(members[greedy.medoids(points(members).vectors, count, seed)])

        return class_by_class(task, self.candidates, of_class)


@final
@value
class FacilityLocation(InSpace):
    """Facility location: the greedy maximum of the similarity of all images to the nearest chosen one.

        sum_i max_{j chosen} s_ij,      s_ij = 1/2 + 1/2 cos(x_i, x_j)

    The greedy value is at least 1 - 1/e of the best one. All inner products of a class are in memory.

    Reference: Nemhauser, Wolsey, Fisher 1978; Wolsey 1982.
    """

    kind: Literal["facility_location"] = "facility_location"

    def pick(self, points: Points, count: int, draw: Draw) -> Choice:
        """Return the positions of `count` chosen points, and their weights."""
        return with_equal_weights(greedy.facility_location(greedy.cosine_similarity(points), count))


@final
@value
class GraphCut(InSpace):
    """Graph cut: images that are similar to all others, and not to each other.

    The choice is the greedy maximum of

        sum_{i, j chosen} s_ij - trade_off sum_{i chosen, j chosen} s_ij,      s_ij = 1/2 + 1/2 cos(x_i, x_j).

    All inner products of a class are in memory.

    Reference: Iyer et al. 2021, "Submodular Combinatorial Information Measures with Applications in Machine Learning".
    """

    trade_off: Annotated[float, Field(ge=0)] = 1.0
    """The weight of the similarity between chosen images, which is avoided."""
    kind: Literal["graph_cut"] = "graph_cut"

    def pick(self, points: Points, count: int, draw: Draw) -> Choice:
        """Return the positions of `count` chosen points, and their weights."""
        return with_equal_weights(greedy.graph_cut(greedy.cosine_similarity(points), count, self.trade_off))


@final
@value
class CRAIG(InSpace):
    """CRAIG: facility location of distances; the weights of the images are the sizes of their clusters.

        sum_i max_{j chosen} (d_max - d_ij),      d_ij = |x_i - x_j|

    In the space `Gradients` the weighted sum of the chosen gradients is near to the sum of all. DeepCore's public code
    adds 1 to the weights. All inner products of a class are in memory.

    Reference: Mirzasoleiman, Bilmes, Leskovec 2020, "Coresets for Data-efficient Training of Machine Learning Models".
    """

    kind: Literal["craig"] = "craig"

    def pick(self, points: Points, count: int, draw: Draw) -> Choice:
        """Return the positions of `count` chosen points, and their weights."""
        similarity = greedy.nearness(points)
        chosen = greedy.facility_location(similarity, count)
        return Choice(chosen, greedy.cluster_sizes(similarity, chosen))


@final
@value
class Leverage(InSpace):
    """Leverage scores: a draw of images in proportion to their effect on their own prediction in ridge regression.

        l_i = [K (K + lambda I)^-1]_ii,      K_ij = <x_i, x_j>

    All inner products of a class are in memory.

    Reference: Alaoui and Mahoney 2015, "Fast Randomized Kernel Ridge Regression with Statistical Guarantees".
    """

    ridge: krr.Ridge = krr.Ridge(1e-3)
    """The regulariser lambda. The larger it is, the fewer directions count."""
    kind: Literal["leverage"] = "leverage"

    def pick(self, points: Points, count: int, draw: Draw) -> Choice:
        """Return the positions of `count` chosen points, and their weights."""
        return with_equal_weights(greedy.leverage(points.gram(), count, self.ridge, draw("leverage")))


@final
@value
class Determinantal(InSpace):
    """Greedy determinant: each time the image farthest from the span of all that are chosen.

    The choice is the greedy maximum of det G, G_ij = <x_i, x_j> of the chosen images. DeepCore's log-determinant keeps
    the subtracted term alone, and so picks what is redundant.

    Reference: Chen, Zhang, Zhou 2018, "Fast Greedy MAP Inference for Determinantal Point Process".
    """

    kind: Literal["determinantal"] = "determinantal"

    def pick(self, points: Points, count: int, draw: Draw) -> Choice:
        """Return the positions of `count` chosen points, and their weights."""
        return with_equal_weights(greedy.determinantal(points, count))


@final
@value
class GLISTER:
    """GLISTER: images whose gradients lead downhill on the loss of all images, one after the other.

    Gradients are those of cross-entropy with respect to the last dense layer of a network that learned the train set,
    with a step of the layer after each choice; see `kip.methods.selection.greedy.glister` for the formula.

    The last layer begins at 0. At the trained one the mean gradient of the images that it was trained on is about 0,
    each choice answers the step of the one before, and the hardest images are taken. The paper has validation images,
    for which that gradient is not 0; validation images choose nothing here.

    Reference: Killamsetty et al. 2021, "GLISTER: Generalization based Data Subset Selection for Efficient and Robust
    Learning". Its public code (cords) offers the whole validation set or classes; DeepCore chooses by class, and never
    takes the validation gradient again.
    """

    recording: Recording = Recording()
    """The network that learns the train set, and its training."""
    candidates: Candidates | None = None
    """The number of images of each class, drawn at random, that are chosen from. None means all."""
    on: Literal["all", "class"] = "all"
    """The images whose mean loss the choice lowers: `all` train images, or those of the same `class`, as DeepCore has
    it. Both choose as many images of each class."""
    last_layer: Literal["zero", "trained"] = "zero"
    """The last layer at which gradients are taken first: `zero`, as a training on the chosen images begins, or the
    `trained` one, as DeepCore has it."""
    step_size: Annotated[float, Field(gt=0)] = 0.2
    """The step of the last layer after each choice. An image's own logits move by this multiple of its error if its
    features have the mean length."""
    kind: Literal["glister"] = "glister"

    def choose(self, task: Task) -> Choice:
        """Return the choice, from all images at once or class by class."""
        problem, records = task.problem, task.records_of(self.recording)
        if self.on == "all":
            groups = enumerate(task.groups())
            members = np.concatenate(
                [candidates_of(task, members, label, self.candidates) for label, (members, _) in groups]
            )
            return with_equal_weights(
                by_class(self._downhill(problem.labels, records, members, task.budgets), problem.labels)
            )

        def of_class(members: np.ndarray, count: int, label: int) -> Choice:
            budgets = np.where(np.arange(problem.num_classes) == label, count, 0)
            return with_equal_weights(self._downhill(problem.labels, records, members, budgets))

        return class_by_class(task, self.candidates, of_class)

    def _downhill(self, labels: np.ndarray, records: Records, members: np.ndarray, budgets: np.ndarray) -> np.ndarray:
        """Return the choice from some images, for the mean loss of these images."""
        logits = records.last(members)
        start = np.zeros_like(logits) if self.last_layer == "zero" else logits
        features = records.features(members)
        return members[greedy.glister(features, start, labels[members], budgets, self.step_size)]


def class_by_class(task: Task, candidates: int | None, of_class: Callable[[np.ndarray, int, int], Choice]) -> Choice:
    """Return the choices of all classes together; each is kept in the store as soon as it is made.

    Args:
        task: the train set and the budgets.
        candidates: images of each class that are chosen from; None: all.
        of_class: returns a choice from some images (m,) of a class: their indices, the budget, and the class.
    """
    choices = []
    with task.store.progress(task.problem.num_classes, "choice") as bar:
        for label, (members, budget) in enumerate(task.groups()):
            some = candidates_of(task, members, label, candidates)
            artefact = task.store.artefact(f"choice-{label}", task.identity)
            choices.append(keep_choice(artefact, budget, partial(of_class, some, budget, label)))
            bar.update()
    return Choice(*(np.concatenate(field) for field in zip(*choices)))


def candidates_of(task: Task, members: np.ndarray, label: int, count: int | None) -> np.ndarray:
    """Return the images of a class that are chosen from, (count,) indices in their order; all if there are no more."""
    if count is None or count >= len(members):
        return members
    draw = generator(task.problem.seed, "candidates", label)
    return np.sort(draw.choice(members, count, replace=False))


def draws_of(task: Task, label: int) -> Draw:
    """Return the function that gives a generator for a purpose, for the draws of a class."""
    return lambda purpose: generator(task.problem.seed, purpose, label)
