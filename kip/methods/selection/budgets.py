"""What is kept of images whose difficulty is known: exactly as many as the budget says.

Functions take the difficulty of m images, (m,), the hardest the highest, and give `budget` different positions, int64.

| rule | keeps | source |
|---|---|---|
| `hardest`, `easiest` | one end of the order by difficulty | |
| `window` | a run of that order, which begins at a fraction of where it can | paper 003, EL2N-Best slides it |
| `strata` | equal shares of equally wide strata of difficulty, drawn inside, without the hardest | Zheng 2023, CCS |
| `beta` | a draw by score times a Beta density of the mean probability | Cho et al. 2025, DUAL |
| `graph` | the highest in turn, each lowering its neighbours | Maharana et al. 2024, D2 |
"""

from __future__ import annotations

import numpy as np

from kip.methods.selection.neighbours import Neighbours


def hardest(difficulty: np.ndarray, budget: int) -> np.ndarray:
    """Return the hardest, the very hardest first; of equals the earliest."""
    return np.argsort(-difficulty, kind="stable")[:budget]


def easiest(difficulty: np.ndarray, budget: int) -> np.ndarray:
    """Return the easiest, the very easiest first; of equals the earliest."""
    return np.argsort(difficulty, kind="stable")[:budget]


def window(difficulty: np.ndarray, budget: int, start: float) -> np.ndarray:
    """Return neighbours in the order of difficulty, the hardest first.

    Args:
        difficulty: (m,).
        budget: how many.
        start: where the window begins, from 0, the hardest of all, to 1, the easiest of all.

    >>> window(np.arange(10.0), 2, 0.5)
    array([5, 4])
    """
    first = round(start * (len(difficulty) - budget))
    return np.argsort(-difficulty, kind="stable")[first : first + budget]


def strata(
    difficulty: np.ndarray, budget: int, generator: np.random.Generator, *, drop: float, count: int = 50
) -> np.ndarray:
    """Return equal shares of strata; what small ones cannot give, larger ones do.

    Args:
        difficulty: (m,).
        budget: how many.
        generator: draws inside of strata.
        drop: the fraction of the images, the hardest, that is left out first, as far as the budget allows.
        count: strata of equal width, from the easiest to the hardest that is left.
    """
    order = np.argsort(-difficulty, kind="stable")
    left = order[min(int(drop * len(order)), len(order) - budget) :]
    edges = np.linspace(difficulty[left].min(), difficulty[left].max(), count + 1)
    stratum = np.clip(np.searchsorted(edges, difficulty[left], side="right") - 1, 0, count - 1)
    groups = [left[stratum == index] for index in range(count)]
    groups = sorted((group for group in groups if len(group)), key=len)
    chosen: list[np.ndarray] = []
    missing = budget
    for place, group in enumerate(groups):
        share = min(len(group), missing // (len(groups) - place))
        chosen.append(generator.choice(group, share, replace=False))
        missing -= share
    return np.concatenate(chosen)


def beta(
    score: np.ndarray, mean_probability: np.ndarray, budget: int, generator: np.random.Generator, *, power: float = 4.0
) -> np.ndarray:
    """Draw without replacement, with weights score times the density of Beta(a, b) at the mean probability.

        b = 15 (1 - the mean probability of the ten highest scores) (1 - r^power),    a = 16 - b,
        r the fraction of images that is pruned.

    Args:
        score: of DUAL, (m,), not negative.
        mean_probability: of the true class, over the same epochs, (m,).
        budget: how many.
        generator: draws.
        power: DUAL's c.
    """
    top = mean_probability[hardest(score, 10)].mean()
    pruned = 1 - budget / len(score)
    b = 15 * (1 - top) * (1 - pruned**power)
    a = 16 - b
    p = np.clip(mean_probability, 1e-12, 1 - 1e-12)
    log_weights = np.log(np.maximum(score, 1e-300)) + (a - 1) * np.log(p) + (b - 1) * np.log1p(-p)
    return weighted_draw(log_weights, budget, generator)


def weighted_draw(log_weights: np.ndarray, budget: int, generator: np.random.Generator) -> np.ndarray:
    """Draw without replacement, one after the other, in proportion to the weights of those that are left.

    It takes the highest sums of a log-weight and a standard Gumbel draw, which is the same distribution.

    Args:
        log_weights: (m,), up to a constant; finite.
        budget: how many.
        generator: draws.
    """
    return hardest(log_weights + generator.gumbel(size=len(log_weights)), budget)


def graph(
    difficulty: np.ndarray, neighbours: Neighbours, budget: int, *, gamma: float = 0.1, drop: float = 0.0
) -> np.ndarray:
    """Return what D2 takes: difficulty is spread over a graph of neighbours, and whoever is taken lowers theirs.

        s_i <- s_i + sum_{j near i} exp(-d_ij) s_j,
        then in turn, with i the highest:  s_j <- s_j - exp(-gamma d_ij) s_i    for each j near i

    s begins as the difficulty, its lowest value made 0; d is relative to the mean distance of neighbours, so that it
    has no scale of the space in it, which the public code leaves in.

    Args:
        difficulty: (m,).
        neighbours: of each of the m.
        budget: how many.
        gamma: of the second formula.
        drop: the fraction of the images, the hardest, that is left out first, as far as the budget allows.
    """
    score = difficulty - difficulty.min()
    apart = neighbours.distances / max(neighbours.distances.mean(), 1e-300)
    score = score + (np.exp(-apart) * score[neighbours.indices]).sum(1)
    score[hardest(difficulty, min(int(drop * len(score)), len(score) - budget))] = -np.inf
    chosen = np.empty(budget, np.int64)
    for place in range(budget):
        pick = int(score.argmax())
        chosen[place] = pick
        score[neighbours.indices[pick]] -= np.exp(-gamma * apart[pick]) * score[pick]
        score[pick] = -np.inf
    return chosen
