"""Class-balanced draws without replacement: target batches and initial supports."""

from __future__ import annotations

import numpy as np

from kip import rng
from kip.errors import DataError


class ClassIndex:
    """The images of each class, found once, so that a draw costs no pass over the labels.

    Args:
        labels: integers in 0..num_classes-1, (N,).
        num_classes: C.
    """

    def __init__(self, labels: np.ndarray, num_classes: int):
        self._by_class = np.split(
            np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=num_classes))[:-1]
        )

    def sample(self, count: int, *, seed: int, purpose: str, step: int = 0) -> np.ndarray:
        """Draw `count` different images, floor(count / C) or one more of each class.

        The draw is a pure function of (seed, purpose, step), so a resumed run needs no state to repeat it. Which
        classes give one more is drawn too. Asking for all N images gives all of them, balanced or not: a full batch.

        Args:
            count: how many, >= 0.
            seed: the experiment's root seed.
            purpose: what the draw is for, such as "target batch"; see `kip.rng.generator`.
            step: the training step, for draws that are made at each.

        Returns:
            int64 indices into the labels, (count,), grouped by class in the order 0..C-1.

        Raises:
            DataError: if a class holds fewer images than its share.
        """
        if count == sum(len(members) for members in self._by_class):
            return np.concatenate(self._by_class)
        generator = rng.generator(seed, purpose, step)
        share, remainder = divmod(count, len(self._by_class))
        wanted = np.full(len(self._by_class), share)
        wanted[generator.choice(len(wanted), remainder, replace=False)] += 1
        for label, (members, number) in enumerate(zip(self._by_class, wanted, strict=True)):
            if number > len(members):
                raise DataError(
                    f"class {label} has too few images for a class-balanced draw of {count} ({purpose})",
                    got=f"{len(members)} images",
                    expected=f"at least {number}",
                    remedy=f"Draw at most {len(self._by_class) * min(map(len, self._by_class))} images from this set.",
                )
        drawn = [generator.choice(members, n, replace=False) for members, n in zip(self._by_class, wanted, strict=True)]
        return np.concatenate(drawn).astype(np.int64)


def class_balanced(
    labels: np.ndarray, count: int, *, num_classes: int, seed: int, purpose: str, step: int = 0
) -> np.ndarray:
    """Draw `count` images once; see `ClassIndex.sample`, which is quicker for many draws from the same labels."""
    return ClassIndex(labels, num_classes).sample(count, seed=seed, purpose=purpose, step=step)
