"""The plan covers every entry once, within its memory, and depends on nothing but its arguments."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kip.blocks import merged, plan, tiles
from kip.blocks.plan import COLUMN_RUNS, LEAST_COLUMNS, LEAST_ENTRIES, STRIPS, TASK_BYTES, TASKS, runs, settle, whole

ENTRY = 11 << 20
"""Bytes an entry that make a task of few columns worth sending."""


@given(
    n=st.integers(1, 40),
    m=st.integers(0, 90),
    entry=st.sampled_from([1, 7, 100, 1 << 24, 1 << 30]),
    entries=st.integers(0, 700),
    columns=st.none() | st.integers(1, 50),
    places=st.sampled_from([1, 32, 100, 10_000]),
)
def test_tasks_and_their_tiles_cover_every_entry_once_and_fit_the_memory(n, m, entry, entries, columns, places):
    made = plan(n, m, entry, entries * entry, task_columns=columns)
    made = made._replace(ts=merged(made, places))
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


@given(n=st.integers(1, 300), m=st.integers(0, 300), entries=st.integers(32, 5000))
def test_tiles_whose_rows_are_filled_up_fit_the_memory(n, m, entries):
    """The form for GPUs computes whole warps of pairs."""

    def filled_up(rows, columns):
        return -(-rows // 32) * 32 * columns

    size = plan(n, m, 1 << 24, entries << 24, lanes=32).size
    for tile in ((size.rows, size.columns), (size.side, size.side)):
        assert filled_up(*tile) <= entries
    for rows in (None, max(1, m)):
        assert filled_up(*whole(n, rows, 1 << 24, entries << 24, lanes=32).size[:2]) <= entries


def test_sides_are_cut_evenly():
    made = plan(100, 1000, 1 << 16, 64 * 64 << 16, task_columns=100)
    assert made.size == (64, 50, 50, 176)
    assert {task.shape for task in made.ts} == {(176, 100), (120, 100)}


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
    assert plan(7, 12, entry_bytes=1000, memory_bytes=memory).size == ((1, 1, 1, 4) if memory == 1 else (4, 7, 7, 4))


def test_a_step_of_the_papers_size_has_tasks_for_hundreds_of_workers():
    made = plan(100, 5000, ENTRY, 1 << 30)
    assert TASKS / 2 < len(made.ts) <= TASKS
    assert len({task.columns for task in made.ts}) == COLUMN_RUNS
    assert all(rows * columns >= LEAST_ENTRIES for rows, columns in (task.shape for task in made.ts[:-COLUMN_RUNS]))
    triangle = [sum(len(range(row, 100)) for row in range(*task.rows)) for task in made.ss]
    assert max(triangle) <= 2 * 256 * 5, "no task of K_ss is late for the others"
    assert len(plan(1000, 5000, ENTRY, 1 << 30).ss) <= STRIPS


@pytest.mark.parametrize(("support", "target", "most"), [(1000, 5000, 610), (1000, 50_000, 10 * TASKS), (10, 600, 5)])
def test_larger_steps_have_more_tasks_and_smaller_ones_fewer(support, target, most):
    assert 0.7 * most < len(plan(support, target, ENTRY, 1 << 30).ts) <= most + 1


@pytest.mark.parametrize(("places", "number"), [(1, 80), (16, 80), (64, 200), (128, 100), (256, 200), (500, 400)])
def test_tasks_are_merged_for_few_devices_and_let_all_finish_together(places, number):
    made = plan(100, 5000, ENTRY, 1 << 30)
    tasks = merged(made, places)
    assert len(tasks) == number
    busy = [0] * places  # each takes the next task when it has done its last
    for task in tasks:
        first = busy.index(min(busy))
        busy[first] += task.shape[0] * task.shape[1]
    least = -(-len(made.ts) // places) * 256 * 5
    assert max(busy) <= max(1.12 * 5000 * 100 / places, least)
    assert max(task.shape[0] for task in merged(made, 8)) == 16 * made.size.run, "few gradients travel"


def test_cheap_kernels_are_not_cut_in_columns_and_narrow_tasks_are_given_on_request():
    assert {task.columns for task in plan(100, 5000, 100, 1 << 30).ts} == {(0, 100)}
    assert {task.columns for task in plan(10, 5000, ENTRY, 1 << 30).ts} == {(0, LEAST_COLUMNS), (4, 8), (8, 10)}
    assert {task.shape[1] for task in plan(10, 5000, ENTRY, 1 << 30, task_columns=1).ts} == {1}


def test_every_task_but_the_last_of_a_side_is_worth_sending():
    made = plan(100, 5000, 1 << 16, 1 << 30)
    shapes = [task.shape for task in made.ts if task.columns[1] < 100]
    assert shapes
    assert all(rows * columns * (1 << 16) >= TASK_BYTES / 2 for rows, columns in shapes)


@given(count=st.integers(1, 70), places=st.integers(1, 200), order=st.randoms(use_true_random=False))
def test_the_sum_of_runs_has_the_same_bits_however_they_are_merged_and_whenever_they_come(count, places, order):
    numbers = np.random.default_rng(count).standard_normal((count, 1)).astype(np.float32)
    made = plan(4, 16 * count, 1 << 30, 1 << 60, task_columns=4)
    made = made._replace(
        ts=[made.ts[0]._replace(rows=(16 * place, 16 * place + 16)) for place in range(count)],
        size=made.size._replace(run=16),
    )

    def total(first, last):
        if last - first == 1:
            return numbers[first]
        middle = first + max(2**k for k in range(8) if 2**k < last - first)
        return total(first, middle) + total(middle, last)

    sums = {}
    tasks = merged(made, places)
    order.shuffle(tasks)
    for task in tasks:
        first, last = runs(task, made.size)
        sums[first, last] = total(first, last)
        settle(sums, 0, count)
    assert settle(sums, 0, count)
    assert list(sums) == [(0, count)]
    assert sums[0, count].tobytes() == total(0, count).tobytes()
