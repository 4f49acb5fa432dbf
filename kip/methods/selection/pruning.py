"""Rules that choose images by their difficulty to networks that learn the train set.

A rule takes a score (`kip.methods.selection.scores`) and chooses the difficulties that are kept, in each class, or in
all images together with `balanced` off. The seed draws the order of images of the same difficulty, so that no choice
follows the order of a file. The formulas are computed by the pure functions of
`kip.methods.selection.budgets`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from typing_extensions import final

from kip.config import value
from kip.methods.selection import budgets
from kip.methods.selection.neighbours import nearest
from kip.methods.selection.scores import AUM, EL2N, DUALScore, Forgetting, Score, check_neighbours
from kip.methods.selection.task import Choice, Group, Task, by_class, with_equal_weights
from kip.rng import generator
from kip.training.records import Records

Keep = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""A function of the indices of some images (m,), the budget and a generator that returns the positions of the images
that are kept, (budget,)."""
Drop = Annotated[float, Field(ge=0, lt=1)]


@final
@value
class Hardest:
    """The hardest images by a score, the very hardest first, as most papers of scores choose."""

    score: Score = EL2N()
    """The difficulty of an image."""
    balanced: bool = True
    """Choose from each class on its own. Off chooses from all images together, whatever their class."""
    kind: Literal["hardest"] = "hardest"

    def choose(self, task: Task) -> Choice:
        """Return the choice."""
        groups = task.groups(balanced=self.balanced)
        difficulty, _ = self.score.of(task, groups)
        return of_groups(task, groups, lambda i, budget, draw: budgets.hardest(difficulty[i], budget, draw))


@final
@value
class Easiest:
    """The easiest images by a score, the very easiest first: the better choice where few images are kept.

    Reference: Sorscher et al. 2022, "Beyond neural scaling laws: beating power law scaling via data pruning".
    """

    score: Score = EL2N()
    """The difficulty of an image."""
    balanced: bool = True
    """Choose from each class on its own. Off chooses from all images together, whatever their class."""
    kind: Literal["easiest"] = "easiest"

    def choose(self, task: Task) -> Choice:
        """Return the choice."""
        groups = task.groups(balanced=self.balanced)
        difficulty, _ = self.score.of(task, groups)
        return of_groups(task, groups, lambda i, budget, draw: budgets.easiest(difficulty[i], budget, draw))


@final
@value
class Window:
    """A window of the order by difficulty.

    EL2N-Best slides it over all starts and keeps the best one. Do so by runs that differ in `start`, and compare their
    validation accuracies.

    Reference: "Rethinking Dataset Distillation: Hard Truths About Soft Labels", EL2N-Best.
    """

    score: Score = EL2N()
    """The difficulty of an image."""
    start: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The place where the window begins, from 0, the hardest images, to 1, the easiest ones."""
    balanced: bool = True
    """Choose from each class on its own. Off chooses from all images together, whatever their class."""
    kind: Literal["window"] = "window"

    def choose(self, task: Task) -> Choice:
        """Return the choice."""
        groups = task.groups(balanced=self.balanced)
        difficulty, _ = self.score.of(task, groups)
        return of_groups(
            task, groups, lambda i, budget, draw: budgets.window(difficulty[i], budget, draw, start=self.start)
        )


@final
@value
class CCS:
    """CCS, coverage-centric selection: without the hardest images, equal shares of 50 strata of difficulty.

    The strata have equal widths from the easiest to the hardest image; what small ones cannot give, larger ones do.
    Images are drawn at random inside of a stratum.

    Reference: Zheng et al. 2023, "Coverage-centric Coreset Selection for High Pruning Rates".
    """

    score: Score = AUM()
    """The difficulty of an image."""
    drop: Drop = 0.3
    """The fraction of all train images, the hardest by AUM, that is left out before any are chosen; each class keeps
    its budget. The paper has 0.3 where 90 % are pruned, and 0.2 where 80 % are."""
    balanced: bool = True
    """Choose from each class on its own. Off chooses from all images together, whatever their class."""
    kind: Literal["ccs"] = "ccs"

    def choose(self, task: Task) -> Choice:
        """Return the choice."""
        groups = task.groups(balanced=self.balanced)
        difficulty, records = self.score.of(task, groups)
        left = without_hardest(task, records, groups, self.drop)
        return of_groups(task, left, lambda i, budget, draw: budgets.strata(difficulty[i], budget, draw))


@final
@value
class DUAL:
    """DUAL: a draw by the score of DUAL times a Beta density of the mean probability of the true class.

        b = 15 (1 - the mean probability of the ten highest scores) (1 - r^4),    a = 16 - b,
        r the fraction of images that is pruned: the more, the easier the images that are drawn.

    Reference: Cho et al. 2025, "Lightweight Dataset Pruning without Full Training via Example Difficulty and Prediction
    Uncertainty".
    """

    score: DUALScore = DUALScore()
    """The difficulty of an image."""
    balanced: bool = True
    """Choose from each class on its own. Off chooses from all images together, whatever their class."""
    kind: Literal["dual"] = "dual"

    def choose(self, task: Task) -> Choice:
        """Return the choice."""
        groups = task.groups(balanced=self.balanced)
        score, records = self.score.of(task, groups)
        probability = self.score.probability(records)
        return of_groups(task, groups, lambda i, budget, draw: budgets.beta(score[i], probability[i], budget, draw))


@final
@value
class D2:
    """D2: the hardest images in turn, each of which lowers the difficulty of its neighbours in a graph.

        s_i <- s_i + sum_{j near i} exp(-d_ij) s_j,
        then in turn, with i the highest:  s_j <- s_j - exp(-gamma d_ij) s_i    for each j near i

    Neighbours are those of the last features of the recorded network, among the images that are left after the drop;
    see `kip.methods.selection.budgets.graph`. The defaults are those of the public code where 90 % are pruned.

    Reference: Maharana, Yadav, Bansal 2024, "D2 Pruning: Message Passing for Balancing Diversity and Difficulty in Data
    Pruning"; public code.
    """

    score: Score = Forgetting()
    """The difficulty of an image, to which that of its neighbours is added."""
    drop: Drop = 0.4
    """The fraction of all train images, the hardest by AUM, that is left out before any are chosen; each class keeps
    its budget."""
    neighbours: Annotated[int, Field(ge=1)] = 5
    """The number of neighbours of an image."""
    gamma: Annotated[float, Field(gt=0)] = 0.1
    """The scale of distances when a chosen image lowers its neighbours: the smaller, the more."""
    balanced: bool = True
    """Choose from each class on its own. Off chooses from all images together, whatever their class."""
    kind: Literal["d2"] = "d2"

    def choose(self, task: Task) -> Choice:
        """Return the choice.

        Raises:
            ConfigError: if an image of a group has fewer others than `neighbours`.
        """
        groups = task.groups(balanced=self.balanced)
        check_neighbours(self.neighbours, min(len(members) for members, _ in groups))
        difficulty, records = self.score.of(task, groups)
        left = without_hardest(task, records, groups, self.drop)
        check_neighbours(self.neighbours, min(len(members) for members, _ in left))

        def keep(members: np.ndarray, budget: int, draw: np.random.Generator) -> np.ndarray:
            near = nearest(records.features(members), self.neighbours)
            return budgets.graph(difficulty[members], near, budget, draw, gamma=self.gamma)

        return of_groups(task, left, keep)


def of_groups(task: Task, groups: list[Group], keep: Keep) -> Choice:
    """Return the images that are kept of each group, by class."""
    kept = []
    for number, (members, budget) in enumerate(groups):
        kept.append(members[keep(members, budget, generator(task.problem.seed, "pruning", number))])
    return with_equal_weights(by_class(np.concatenate(kept), task.problem.labels))


def without_hardest(task: Task, records: Records, groups: list[Group], drop: float) -> list[Group]:
    """Return the groups without the hardest images of them all by AUM; see `kip.methods.selection.budgets`.

    Args:
        task: its seed draws the order of equals.
        records: those of the networks.
        groups: images that are chosen from together.
        drop: the fraction of all images that is left out.
    """
    if not drop:
        return groups
    draw = generator(task.problem.seed, "drop")
    return budgets.without_hardest(AUM().difficulty(records), groups, draw, drop=drop)
