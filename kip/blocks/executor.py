"""Where tiles are computed: the protocol that the local executor keeps, and any distributed one.

A step begins with the images; tasks then name rows and columns only. Tasks are deterministic and idempotent: an
executor may run them anywhere, in any order, more than once, and yields their results in the order of the tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from kip.blocks.plan import Tile
from kip.blocks.tile import Images, TileGradient


class Executor(Protocol):
    """Runs tiles somewhere. Not thread-safe: one step at a time."""

    def begin(self, images: Images) -> None:
        """Make a step's images available to the tiles that follow."""

    def forward(self, tiles: Sequence[Tile]) -> Iterator[np.ndarray]:
        """Yield K(rows, columns) of each tile, in order."""
        ...

    def backward(self, tiles: Sequence[Tile], cotangents: Iterable[np.ndarray]) -> Iterator[TileGradient]:
        """Yield the vjp of each tile with its cotangent (of the tile's shape), in order."""
        ...

    def close(self) -> None:
        """Let go of devices, threads and processes; safe to call twice."""

    def __enter__(self) -> Executor: ...

    def __exit__(self, *exception: Any) -> None: ...
