"""A method that chooses natural images in place of learning images: `Selection`, by one of many rules.

- `rules`: all of them; `geometric` by positions in one of the `spaces`, `pruning` by one of the `scores`.
- `spaces`: pixels, a network's features or gradients, a kernel's features.
- `scores`: the difficulty of an image to networks that learn (`kip.training.records`).

They compute with pure functions of arrays: `points` and `greedy` for the first; `uncertainty`, `dynamics`,
`neighbours` and `budgets` for the second.
"""

from kip.methods.selection import rules, scores, spaces

__all__ = ["rules", "scores", "spaces"]
