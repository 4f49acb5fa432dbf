"""Which tiles a step's kernel matrices are cut into.

    K_ts (m, n): all tiles.        K_ss (n, n): the tiles on and above the diagonal; the rest is their transpose.

Tiles name images by position only; nothing here holds an array.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from kip.config import value
from kip.kernels.architecture import Implementation


@value
class Blocks:
    """How kernel matrices are computed. It is part of the experiment, because the tile size changes the last bits."""

    memory_mib: Annotated[int, Field(ge=1)] = 1024
    """Temporary memory that one tile may take, in MiB, for each device; it sets the tile size."""
    dtype: Literal["float32", "float64"] = "float32"
    """Of the kernel's computation; the KRR solve is in float64 in any case."""
    implementation: Implementation = "auto"
    """Of networks' kernels: `auto` takes kip's engine where it can, and neural-tangents for the rest."""


class Tile(NamedTuple):
    """One block of a kernel matrix: `rows` of the targets (or of the support), `columns` of the support."""

    matrix: Literal["ss", "ts"]
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def on_diagonal(self) -> bool:
        """Whether both sides are the same support images."""
        return self.matrix == "ss" and self.rows == self.columns

    @property
    def where(self) -> tuple[slice, slice]:
        """The block's place in its matrix."""
        return slice(*self.rows), slice(*self.columns)


class TileSize(NamedTuple):
    """The size of a full tile: rows of targets, and columns (and, in K_ss, rows) of support images."""

    rows: int
    columns: int

    def shape(self, tile: Tile) -> tuple[int, int]:
        """The full size that a tile, ragged or not, is computed at."""
        return (self.columns if tile.matrix == "ss" else self.rows), self.columns


def tile_size(num_support: int, num_target: int, entry_bytes: int, memory_bytes: int) -> TileSize:
    """Return the largest tile whose entries fit the memory, as square as the matrices allow, then evened out.

    A side of 100 images with room for 64 is cut into 50 + 50 and not 64 + 36, because every tile is computed at full
    size: at most the last tile of a side is ragged, by less than one image for each tile.

    Args:
        num_support: n, at least 1.
        num_target: m; may be 0.
        entry_bytes: temporary memory of forward and vjp for one kernel entry, in bytes.
        memory_bytes: what a tile may take. One entry is computed even if it does not fit.
    """
    entries = max(1, memory_bytes // entry_bytes)
    columns = min(num_support, math.isqrt(entries))
    rows = min(max(1, num_target), entries // columns)
    return TileSize(_even(max(1, num_target), rows), _even(num_support, columns))


def plan(matrix: Literal["ss", "ts"], num_rows: int, num_columns: int, size: TileSize) -> list[Tile]:
    """Return the tiles of one matrix, in the order in which results are summed.

    `ss` gives the symmetric triangle, row by row; `ts` gives all tiles, row by row.
    """
    columns = _split(num_columns, size.columns)
    if matrix == "ss":
        return [Tile("ss", columns[i], columns[j]) for i in range(len(columns)) for j in range(i, len(columns))]
    return [Tile("ts", rows, run) for rows in _split(num_rows, size.rows) for run in columns]


def _even(length: int, most: int) -> int:
    return math.ceil(length / math.ceil(length / most))


def _split(length: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, length)) for start in range(0, length, size)]
