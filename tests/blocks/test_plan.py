"""The plan covers every entry once, within its memory, and depends on nothing but its arguments."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kip.blocks import plan, tiles
from kip.blocks.plan import COLUMN_RUNS, LEAST_COLUMNS, ROW_RUNS, TASK_BYTES

ENTRY = 11 << 20
"""Bytes an entry that make a task of few columns worth sending."""


@given(
    n=st.integers(1, 40),
    m=st.integers(0, 90),
    entry=st.sampled_from([1, 7, 100, 1 << 24, 1 << 30]),
    entries=st.integers(0, 700),
    columns=st.none() | st.integers(1, 50),
)
def test_tasks_and_their_tiles_cover_every_entry_once_and_fit_the_memory(n, m, entry, entries, columns):
    made = plan(n, m, entry, entries * entry, task_columns=columns)
    for matrix, rows in (("ss", n), ("ts", m)):
        seen = np.zeros((rows, n), int)
        for task in getattr(made, matrix):
            for tile in tiles(task, made.size):
                assert task.rows[0] <= tile.rows[0] < tile.rows[1] <= task.rows[1]
                assert task.columns[0] <= tile.columns[0] < tile.columns[1] <= task.columns[1]
                seen[tile.where] += 1
                if matrix == "ss" and not tile.on_diagonal:
                    seen[tile.where[1], tile.where[0]] += 1
                height, width = made.size.shape(tile)
                assert tile.rows[1] - tile.rows[0] <= height
                assert tile.columns[1] - tile.columns[0] <= width
                assert height * width <= max(entries, 1), "more memory than allowed"
        np.testing.assert_array_equal(seen, 1)


def test_sides_are_cut_evenly():
    made = plan(100, 1000, ENTRY, 64 * 64 * ENTRY, task_columns=100)
    assert made.size == (80, 50, 50)
    assert {task.rows for task in made.ts} == {(0, 336), (336, 672), (672, 1000)}


def test_runs_of_rows_fill_vectors_of_sixteen_pairs():
    for targets, expected in ((100, [48, 48, 4]), (40, [14, 14, 12]), (48, [16, 16, 16]), (96, [32, 32, 32])):
        made = plan(10, targets, ENTRY, 1 << 30)
        assert [task.shape[0] for task in made.ts if task.columns[0] == 0] == expected
    assert plan(10, 96, ENTRY, 100 * ENTRY).size.rows == 16, "tiles as well"


def test_the_triangle_halves_the_work():
    made = plan(40, 0, ENTRY, 100 * ENTRY)
    assert sum(len(tiles(task, made.size)) for task in made.ss) == 10  # of 16


@pytest.mark.parametrize("memory", [1, 10**12])
def test_extremes_of_memory(memory):
    assert plan(7, 12, entry_bytes=1000, memory_bytes=memory).size == ((1, 1, 1) if memory == 1 else (4, 7, 7))


def test_a_step_of_the_papers_size_has_some_seventy_tasks():
    made = plan(100, 5000, ENTRY, 1 << 30)
    assert len(made.ts) == ROW_RUNS * COLUMN_RUNS
    assert len(made.ss) == 2


def test_cheap_kernels_are_not_cut_in_columns_and_narrow_tasks_are_given_on_request():
    assert {task.columns for task in plan(100, 5000, 100, 1 << 30).ts} == {(0, 100)}
    assert {task.shape[1] for task in plan(10, 5000, ENTRY, 1 << 30).ts} == {LEAST_COLUMNS, 10 % LEAST_COLUMNS}
    assert {task.shape[1] for task in plan(10, 5000, ENTRY, 1 << 30, task_columns=1).ts} == {1}


def test_every_task_but_the_last_of_a_side_is_worth_sending():
    made = plan(100, 5000, 1 << 16, 1 << 30)
    shapes = [task.shape for task in made.ts if task.columns[1] < 100]
    assert shapes
    assert all(rows * columns * (1 << 16) >= TASK_BYTES / 2 for rows, columns in shapes)
