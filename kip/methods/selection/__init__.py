"""Methods that choose natural images in place of learning images.

- `geometric`: by where images lie in a space: the pixels, a network's features or gradients, or a kernel's features.
- `pruning`: by what networks do with them while they learn (`kip.training.records`).

What they compute with are pure functions of arrays: `points` and `greedy` for the one; `uncertainty`, `dynamics`,
`neighbours` and `budgets` for the other.
"""
