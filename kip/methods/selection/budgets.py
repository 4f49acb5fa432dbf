"""The choice of images by their difficulty: exactly as many as the budget says.

Functions take the difficulty of m images, (m,), the hardest the highest, and return `budget` different positions,
int64. The generator draws the order of equal difficulties, so that no choice follows the order of a file.

| rule | keeps | source |
|---|---|---|
| `hardest`, `easiest` | one end of the order by difficulty | |
| `window` | a run of that order, which begins at a fraction of where it can | paper 003, EL2N-Best slides it |
| `strata` | equal shares of equally wide strata of difficulty, drawn inside | Zheng 2023, CCS |
| `beta` | a draw by score times a Beta density of the mean probability | Cho et al. 2025, DUAL |
| `graph` | the highest in turn, each lowering its neighbours | Maharana et al. 2024, D2 |

CCS and D2 leave out the hardest images of the whole set before they choose: `without_hardest`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kip.methods.selection.neighbours import Neighbours

POWER = 4.0
"""The exponent c of DUAL's Beta density."""


def order(difficulty: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the positions from the hardest to the easiest, (m,); equals are in a drawn order.

    >>> order(np.array([1.0, 3.0, 2.0]), np.random.default_rng(0))
    array([1, 2, 0])
    """
    return np.lexsort((generator.random(len(difficulty)), -difficulty))


def hardest(difficulty: np.ndarray, budget: int, generator: np.random.Generator) -> np.ndarray:
    """Return the hardest, the very hardest first."""
    return order(difficulty, generator)[:budget]


def easiest(difficulty: np.ndarray, budget: int, generator: np.random.Generator) -> np.ndarray:
    """Return the easiest, the very easiest first."""
    return order(-difficulty, generator)[:budget]


def window(difficulty: np.ndarray, budget: int, generator: np.random.Generator, *, start: float) -> np.ndarray:
    """Return neighbours in the order of difficulty, the hardest first.

    Args:
        difficulty: (m,).
        budget: the number of images that are chosen.
        generator: draws the order of equals.
        start: where the window begins, from 0, the hardest of all, to 1, the easiest of all.

    >>> window(np.arange(10.0), 2, np.random.default_rng(0), start=0.5)
    array([5, 4])
    """
    first = round(start * (len(difficulty) - budget))
    return order(difficulty, generator)[first : first + budget]


def without_hardest(
    difficulty: np.ndarray,
    groups: Sequence[tuple[np.ndarray, int]],
    generator: np.random.Generator,
    *,
    drop: float,
) -> list[tuple[np.ndarray, int]]:
    """Return the groups without the hardest images of them all, each as large as its budget at least.

    A group that would be smaller than its budget keeps its easiest images. The share is one of all images together, as
    the public codes of CCS and D2 take it, and so hard groups lose more than easy ones.

    Args:
        difficulty: (N,).
        groups: positions (m,) and the budget of each group; no position is in two of them.
        generator: draws the order of equals.
        drop: the fraction of the images of all groups that is left out.
    """
    everything = np.concatenate([members for members, _ in groups])
    rank = np.empty(len(difficulty), np.int64)
    rank[everything[order(difficulty[everything], generator)]] = np.arange(len(everything))
    first = int(drop * len(everything))
    kept = []
    for members, budget in groups:
        ranks = np.sort(rank[members])
        kept.append((members[rank[members] >= min(first, ranks[-budget])], budget))
    return kept


def strata(difficulty: np.ndarray, budget: int, generator: np.random.Generator, *, count: int = 50) -> np.ndarray:
    """Return equal shares of strata; what small ones cannot give, larger ones do.

    Args:
        difficulty: (m,).
        budget: the number of images that are chosen.
        generator: draws inside of strata.
        count: strata of equal width, from the easiest to the hardest.
    """
    edges = np.linspace(difficulty.min(), difficulty.max(), count + 1)
    stratum = np.clip(np.searchsorted(edges, difficulty, side="right") - 1, 0, count - 1)
    groups = [np.flatnonzero(stratum == index) for index in range(count)]
    groups = sorted((group for group in groups if len(group)), key=len)
    chosen: list[np.ndarray] = []
    missing = budget
    for place, group in enumerate(groups):
        share = min(len(group), missing // (len(groups) - place))
        chosen.append(generator.choice(group, share, replace=False))
        missing -= share
    return np.concatenate(chosen)


def beta(score: np.ndarray, mean_probability: np.ndarray, budget: int, generator: np.random.Generator) -> np.ndarray:
    """Draw without replacement, with weights score times the density of Beta(a, b) at the mean probability.

        b = 15 (1 - the mean probability of the ten highest scores) (1 - r^4),    a = 16 - b,
        r the fraction of images that is pruned.

    Args:
        score: the score of DUAL, (m,), not negative.
        mean_probability: the mean probability of the true class, over the same epochs, (m,).
        budget: the number of images that are chosen.
        generator: draws.
    """
    top = mean_probability[hardest(score, 10, generator)].mean()
    pruned = 1 - budget / len(score)
    b = 15 * (1 - top) * (1 - pruned**POWER)
    a = 16 - b
    p = np.clip(mean_probability, 1e-12, 1 - 1e-12)
    log_weights = np.log(np.maximum(score, 1e-300)) + (a - 1) * np.log(p) + (b - 1) * np.log1p(-p)
    return weighted_draw(log_weights, budget, generator)


def weighted_draw(log_weights: np.ndarray, budget: int, generator: np.random.Generator) -> np.ndarray:
    """Draw without replacement, one after the other, in proportion to the weights of the rest.

    The highest sums of a log-weight and a standard Gumbel draw have this distribution.

    Args:
        log_weights: (m,), up to a constant; finite.
        budget: the number of images that are chosen.
        generator: draws.
    """
    return hardest(log_weights + generator.gumbel(size=len(log_weights)), budget, generator)


def graph(
    difficulty: np.ndarray,
    neighbours: Neighbours,
    budget: int,
    generator: np.random.Generator,
    *,
    gamma: float = 0.1,
) -> np.ndarray:
    """Return the choice of D2: difficulty is spread over a graph of neighbours, and a chosen image lowers theirs.

        s_i <- s_i + sum_{j near i} exp(-d_ij) s_j,
        then in turn, with i the highest:  s_j <- s_j - exp(-gamma d_ij) s_i    for each j near i

    s begins as the difficulty, shifted so that its lowest value is 0. d is relative to the mean distance of neighbours,
    so that the scale of the space has no effect; the public code leaves it in.

    Args:
        difficulty: (m,).
        neighbours: of each of the m.
        budget: the number of images that are chosen.
        generator: draws which of the highest is first.
        gamma: the scale of distances in the second formula.
    """
    score = difficulty - difficulty.min()
    apart = neighbours.distances / max(neighbours.distances.mean(), 1e-300)
    score = score + (np.exp(-apart) * score[neighbours.indices]).sum(1)
    first = generator.permutation(len(score))
    chosen = np.empty(budget, np.int64)
    for place in range(budget):
        pick = int(first[score[first].argmax()])
        chosen[place] = pick
        score[neighbours.indices[pick]] -= np.exp(-gamma * apart[pick]) * score[pick]
        score[pick] = -np.inf
    return chosen
