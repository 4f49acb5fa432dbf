"""A place where tasks are computed: the protocol that the local executor keeps, and any distributed one.

A step begins with the images; tasks then name rows and columns only. Tasks are deterministic and idempotent: an
executor may run them anywhere, in any order, more than once, and yields their results in the order of the tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from kip.blocks.plan import Task
from kip.blocks.tile import Images


class Executor(Protocol):
    """Runs tasks somewhere. Not thread-safe: one step at a time."""

    @property
    def places(self) -> int:
        """The number of devices or workers that compute now, at least 1. It changes no bit of a result."""
        ...

    def begin(self, images: Images) -> None:
        """Make a step's images available to the tasks that follow."""

    def forward(self, tasks: Sequence[Task]) -> Iterator[np.ndarray]:
        """Yield the block of each task, (a, b), in order, as `kip.blocks.task.forward` gives it."""
        ...

    def backward(self, tasks: Sequence[Task], cotangents: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the gradient of each task's columns, (b, H, W, C), in order, as `kip.blocks.task.backward` gives it.

        The cotangents come one for each task, of the task's shape, and are taken as the tasks are handed out.
        """
        ...

    def close(self) -> None:
        """Let go of devices, threads and processes; safe to call twice."""

    def __enter__(self) -> Executor: ...

    def __exit__(self, *exception: Any) -> None: ...
