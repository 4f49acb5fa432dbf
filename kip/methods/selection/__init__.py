"""A method that chooses natural images in place of learning images: `Selection`, by one of many rules.

- `rules`: all of them; `geometric` by where images are in one of the `spaces`, `pruning` by one of the `scores`.
- `spaces`: pixels, a network's features or gradients, a kernel's features.
- `scores`: what networks do with an image while they learn (`kip.training.records`).

What they compute with are pure functions of arrays: `points` and `greedy` for the first; `uncertainty`, `dynamics`,
`neighbours` and `budgets` for the second.
"""

from kip.methods.selection import rules, scores, spaces

__all__ = ["rules", "scores", "spaces"]
