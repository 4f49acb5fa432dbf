"""The tile plan covers every entry once, within its memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kip.blocks import plan, tile_size


@given(n=st.integers(1, 40), m=st.integers(0, 90), entry=st.integers(1, 100), memory=st.integers(1, 5000))
def test_tiles_cover_every_entry_once_and_fit_the_memory(n, m, entry, memory):
    size = tile_size(n, m, entry, memory)
    for matrix, rows in (("ss", n), ("ts", m)):
        seen = np.zeros((rows, n), int)
        for tile in plan(matrix, rows, n, size):
            seen[tile.where] += 1
            if matrix == "ss" and not tile.on_diagonal:
                seen[tile.where[1], tile.where[0]] += 1
            height, width = size.shape(tile)
            assert tile.rows[1] - tile.rows[0] <= height
            assert tile.columns[1] - tile.columns[0] <= width
            assert height * width * entry <= max(memory, entry), "more memory than allowed"
        np.testing.assert_array_equal(seen, 1)


def test_sides_are_cut_evenly():
    size = tile_size(100, 1000, entry_bytes=1, memory_bytes=64 * 64)
    assert size.columns == 50
    assert {tile.columns for tile in plan("ts", 1000, 100, size)} == {(0, 50), (50, 100)}


def test_the_triangle_halves_the_work():
    tiles = plan("ss", 40, 40, tile_size(40, 0, 1, 100))
    assert len(tiles) == 10  # of 16
    assert all(tile.rows[0] <= tile.columns[0] for tile in tiles)


@pytest.mark.parametrize("memory", [1, 10**12])
def test_extremes_of_memory(memory):
    size = tile_size(7, 13, entry_bytes=1000, memory_bytes=memory)
    assert (size.rows, size.columns) == ((1, 1) if memory == 1 else (13, 7))
