"""Kernel matrices and support gradients, put together from tasks in a fixed order.

    dL/dX_s = dL/dK_ss . dK_ss/dX_s + dL/dK_ts . dK_ts/dX_s        (paper, section 2.1)

The kernel as a whole is never differentiated: each task pulls back its own block of the cotangent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kip.blocks.choice import room_of, settled
from kip.blocks.encoded import Encoded, encoded, product
from kip.blocks.executor import Executor
from kip.blocks.local import LocalExecutor
from kip.blocks.plan import ROWS_TOGETHER, Blocks, Plan, Task, TileSize, merged, plan, runs, settle, tiles, whole
from kip.blocks.source import Source
from kip.blocks.tile import Images
from kip.errors import NonFiniteError, ShapeError
from kip.kernels import Features, Implementation, Kernel
from kip.kernels.encoder import encoder
from kip.progress import BOARD, inner_bar, progress_bar
from kip.storage.images import Lazy

ROWS_AT_A_TIME = 4096
"""The most target rows that `KernelBlocks.rows` hands to the executor at a time, as the batch of one step."""
BLOCKS = " blocks"
"""The unit that bars of a kernel matrix count."""
IMAGES = " images"
"""The unit that bars of features count."""


Part = tuple[tuple[slice, slice], np.ndarray]
"""A place in a matrix, and the values there."""


class KernelMatrices(NamedTuple):
    """K_ss (n, n) and K_ts (m, n), in the dtype of the computation; float64 for `kip.Features`."""

    k_ss: np.ndarray
    k_ts: np.ndarray


class KernelBlocks:
    """Computes kernel matrices and their vjp task by task.

    Kernels of an encoder (`kip.Features`) are products of features, which this process computes by itself; see
    `kip.blocks.encoded`.

    Args:
        config: tile memory, dtype and task size.
        executor: where tasks run; None makes a local one. Closed with this object, when used as a context.
    """

    def __init__(self, config: Blocks | None = None, executor: Executor | None = None):
        self._config = config or Blocks()
        self._executor = executor or LocalExecutor()
        self._before: Mapping[str, Implementation] = {}
        self._images: Images | None = None
        self._plan: Plan | None = None
        self._encoded: Encoded | None = None

    def __enter__(self) -> KernelBlocks:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._executor.close()

    def continue_in(self, forms: Mapping[str, Implementation]) -> None:
        """Compute kernels, by their labels, in the forms that were chosen when a run began: see `kip.blocks.choice`."""
        self._before = dict(forms)

    def forward(
        self, kernel: Kernel, support: np.ndarray, target: np.ndarray, *, source: Source | None = None
    ) -> KernelMatrices:
        """Return K(X_s, X_s) and K(X_t, X_s), and remember the images for `backward`.

        Args:
            kernel: the kernel.
            support: X_s (n, H, W, C), preprocessed.
            target: X_t (m, H, W, C), preprocessed.
            source: where the targets come from, for executors whose workers hold the data set; None: nowhere known.

        Raises:
            ShapeError: if the images do not fit each other or the kernel's poolings.
        """
        if isinstance(kernel, Features):
            return self._forward_encoded(kernel, support, target)
        self._encoded = None
        n, m = len(support), len(target)
        self._plan, images = self._begin(kernel, support, target, num_target=m)
        self._images = images = images._replace(source=source)
        self._executor.begin(images)
        # Both matrices at once: the few tasks of K_ss, by themselves, would leave most devices without work.
        tasks = [*self._plan.ss, *merged(self._plan, self._executor.places)]
        k_ss, k_ts = np.zeros((n, n), self._config.dtype), np.zeros((m, n), self._config.dtype)
        with inner_bar(len(tasks), "kernel", unit=BLOCKS) as bar:
            self._fill({"ss": k_ss, "ts": k_ts}, tasks, lambda block: bar.update())
        # The lower triangle is the upper one's transpose to the last bit, within tiles on the diagonal too.
        k_ss = np.triu(k_ss) + np.triu(k_ss, 1).T
        return KernelMatrices(k_ss, k_ts)

    def backward(self, k_ss_bar: np.ndarray, k_ts_bar: np.ndarray) -> np.ndarray:
        """Return dL/dX_s, (n, H, W, C), for the images of the last `forward`.

        Args:
            k_ss_bar: dL/dK_ss (n, n), every entry taken as independent.
            k_ts_bar: dL/dK_ts (m, n).

        Raises:
            NonFiniteError: if the gradient holds NaN or infinity.
        """
        if self._encoded is not None:
            return _finite(self._encoded.pull(k_ss_bar, k_ts_bar))
        if self._images is None or self._plan is None:
            raise RuntimeError("backward is called after forward")
        images, tasks = self._images, [*self._plan.ss, *merged(self._plan, self._executor.places)]
        last = len({task.rows for task in self._plan.ts})
        sums: dict[tuple[int, int], dict[tuple[int, int], np.ndarray]] = {}
        gradient = np.zeros(images.support.shape, images.support.dtype)

        def cotangent(task: Task) -> np.ndarray:
            rows, columns = task.where
            if task.matrix == "ts":
                return self._cast(k_ts_bar[rows, columns])
            bar = k_ss_bar[rows, columns] + k_ss_bar[columns, rows].T
            for tile in tiles(task, images.size):
                if tile.on_diagonal:
                    within = slice(tile.rows[0] - task.rows[0], tile.rows[1] - task.rows[0])
                    bar[within, within] = k_ss_bar[tile.where]
            return self._cast(bar)

        with inner_bar(len(tasks), "gradient", unit=BLOCKS) as bar:
            for task, part in zip(tasks, self._executor.backward(tasks, map(cotangent, tasks))):
                if task.matrix == "ss":
                    gradient[task.where[1]] += part
                else:
                    of_columns = sums.setdefault(task.columns, {})
                    of_columns[runs(task, images.size)] = part
                    settle(of_columns, 0, last)
                bar.update()
        for columns, of_columns in sums.items():
            gradient[slice(*columns)] += of_columns[0, last]
        return _finite(gradient)

    def rows(
        self,
        kernel: Kernel,
        support: np.ndarray,
        target: np.ndarray | Lazy,
        *,
        source: Source | None = None,
        on_entries: Callable[[int], Any] | None = None,
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield K(X_t, X_s) a run of rows at a time: (slice of the targets, (b, n) block), in order.

        The whole matrix is never held, so that the target may be a full train or test set. `on_entries` is told how
        many entries have come, each time that some have; None shows a bar of the blocks, within work that is shown.
        """
        self._forget()
        if isinstance(kernel, Features):
            yield from self._rows_encoded(kernel, support, target, on_entries)
            return
        count = len(target)
        most = -(-count // max(1, -(-count // ROWS_AT_A_TIME)))  # even runs, so that all have tiles of one size
        blocks = 0
        if count and on_entries is None:
            planned = merged(self._plan_of(kernel, support, most), self._executor.places)
            blocks = sum(len(_within(planned, min(most, count - start))) for start in range(0, count, most))
        with inner_bar(blocks, "kernel", unit=BLOCKS) if blocks else contextlib.nullcontext() as bar:
            for start in range(0, count, most):
                part = target[start : start + most]
                full, images = self._begin(kernel, support, part, num_target=most)
                here = source and source._replace(rows=(start, start + len(part)))
                self._executor.begin(images._replace(source=here))

                def on_block(block: np.ndarray) -> None:
                    if on_entries is not None:
                        on_entries(block.size)
                    elif bar is not None:
                        bar.update()

                tasks = _within(merged(full, self._executor.places), len(part))
                rows = np.zeros((len(part), len(support)), self._config.dtype)
                self._fill({"ts": rows}, tasks, on_block)
                yield slice(start, start + len(part)), rows

    def matrix(
        self, kernel: Kernel, x: np.ndarray, z: np.ndarray | None = None, *, show_progress: bool = False
    ) -> np.ndarray:
        """Return K(x, z), (N, M), in the dtype of the computation; beside it, memory holds a few blocks of it.

        Args:
            kernel: the kernel.
            x: images (N, H, W, C), preprocessed.
            z: images (M, H, W, C); None: the same as x. Then half of the matrix is computed, and it is symmetric to
                the last bit.
            show_progress: whether work of more than a moment shows a bar; it does within work that is shown.

        Raises:
            ShapeError: if the images do not fit each other or the kernel's poolings.
        """
        self._forget()
        matrix = np.zeros((len(x), len(x if z is None else z)), self._config.dtype)
        columns, rows = _sides(x, z)
        if not matrix.size or isinstance(kernel, Features):
            _check(kernel, columns, rows)
        if not matrix.size:
            return matrix
        if isinstance(kernel, Features):
            shown = show_progress or BOARD.is_going_on
            with progress_bar(len(columns) + len(rows), "features", shown=shown, unit=IMAGES) as bar:
                phi, of_rows = (
                    encoder(kernel).features(self._cast(images), bar.update) if len(images) else None
                    for images in (columns, rows)
                )
            assert phi is not None
            return self._cast(product(phi) if of_rows is None else product(of_rows, phi))
        tasks = self.whole(kernel, x, z)
        count = len(tasks.ss) + len(tasks.ts)
        with progress_bar(count, "kernel", shown=show_progress or BOARD.is_going_on, unit=BLOCKS) as bar:
            for parts in self.parts(kernel, x, z):
                for where, block in parts:
                    matrix[where] = block
                bar.update()
        return matrix

    def whole(self, kernel: Kernel, x: np.ndarray, z: np.ndarray | None = None) -> Plan:
        """Return the tasks of K(x, z), as `matrix` and `parts` compute them.

        Raises:
            ShapeError: if the images do not fit each other or the kernel's poolings.
        """
        return whole_plan(self._config, kernel, x, z, self._before)

    def parts(
        self,
        kernel: Kernel,
        x: np.ndarray,
        z: np.ndarray | None = None,
        *,
        start: int = 0,
        together: int | None = None,
    ) -> Iterator[list[Part]]:
        """Yield K(x, z) task by task: the places of a task's entries in the matrix, and their values.

        A task above the diagonal of a symmetric matrix has two places, the other of which is its transpose.

        Args:
            kernel: the kernel.
            x: images (N, H, W, C), preprocessed.
            z: images (M, H, W, C); None: the same as x.
            start: how many of the first tasks are left out.
            together: how many tasks the executor is given at a time; None: all. Executors whose results are checked
                hand out none of them before all are there.
        """
        self._forget()
        made = self.whole(kernel, x, z)
        columns, rows = _sides(x, z)
        size = made.size if len(rows) else made.size._replace(rows=1)  # a worker holds sizes against the images
        images = Images(kernel, self._cast(columns), self._cast(rows), size, self._implementation(kernel, columns))
        tasks = [*made.ss, *made.ts][start:]
        if tasks:
            self._executor.begin(images)
        for first in range(0, len(tasks), together or max(1, len(tasks))):
            now = tasks[first : first + together] if together else tasks
            for task, block in zip(now, self._executor.forward(now)):
                if task.matrix == "ss" and task.rows == task.columns:
                    block = np.triu(block) + np.triu(block, 1).T
                rows, columns = task.where
                both = task.matrix == "ss" and task.rows != task.columns
                yield [(task.where, block), *([((columns, rows), block.T)] if both else [])]

    def diagonal(self, kernel: Kernel, x: np.ndarray) -> np.ndarray:
        """Return K(x_i, x_i), (N,), from small blocks around the diagonal."""
        self._forget()
        _check(kernel, x, x[:0])
        side = min(ROWS_TOGETHER, self.whole(kernel, x).size.side)
        runs = [(first, min(first + side, len(x))) for first in range(0, len(x), side)]
        size = TileSize(1, side, side)
        implementation = self._implementation(kernel, x)
        self._executor.begin(Images(kernel, self._cast(x), self._cast(x[:0]), size, implementation))
        tasks = [Task("ss", run, run) for run in runs]
        return np.concatenate([np.diagonal(block) for block in self._executor.forward(tasks)])

    def _forget(self) -> None:
        """Let go of the images of the last forward, which the executor forgets."""
        self._images = self._encoded = None

    def _forward_encoded(self, kernel: Features, support: np.ndarray, target: np.ndarray) -> KernelMatrices:
        self._forget()
        _check(kernel, support, target)
        self._encoded = encoded(kernel, self._cast(support), self._cast(target))
        return KernelMatrices(product(self._encoded.phi_s), product(self._encoded.phi_t, self._encoded.phi_s))

    def _rows_encoded(
        self,
        kernel: Features,
        support: np.ndarray,
        target: np.ndarray | Lazy,
        on_entries: Callable[[int], Any] | None,
    ) -> Iterator[tuple[slice, np.ndarray]]:
        _check(kernel, support, target[:1])
        features = encoder(kernel).features
        phi_s = features(self._cast(support))
        shown = inner_bar(len(target), "features", unit=IMAGES) if on_entries is None else contextlib.nullcontext()
        with shown as bar:
            for start in range(0, len(target), ROWS_AT_A_TIME):
                part = target[start : start + ROWS_AT_A_TIME]
                block = product(features(self._cast(part), None if bar is None else bar.update), phi_s)
                if on_entries is not None:
                    on_entries(block.size)
                yield slice(start, start + len(part)), block

    def _begin(
        self, kernel: Kernel, support: np.ndarray, target: np.ndarray, *, num_target: int
    ) -> tuple[Plan, Images]:
        _check(kernel, support, target)
        made = self._plan_of(kernel, support, num_target)
        implementation = self._implementation(kernel, support)
        return made, Images(kernel, self._cast(support), self._cast(target), made.size, implementation)

    def _plan_of(self, kernel: Kernel, support: np.ndarray, num_target: int) -> Plan:
        room = room_of(self._config, kernel, support.shape[1:], self._before)
        return plan(len(support), num_target, *room[:2], task_columns=self._config.task_columns, lanes=room.lanes)

    def _implementation(self, kernel: Kernel, images: np.ndarray) -> Implementation:
        """Return what computes the kernel, here and on every worker: see `kip.blocks.choice`."""
        return settled(self._config, kernel, images.shape[1:], self._before)

    def _cast(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(images, self._config.dtype)

    def _fill(
        self, matrices: Mapping[str, np.ndarray], tasks: Sequence[Task], on_block: Callable[[np.ndarray], Any]
    ) -> None:
        """Write the blocks of tasks into their matrices, which have the names that tasks call them by."""
        for task, block in zip(tasks, self._executor.forward(tasks)):
            matrices[task.matrix][task.where] = block
            on_block(block)


def _finite(gradient: np.ndarray) -> np.ndarray:
    """Return the gradient of the support images, refusing NaN and infinity."""
    if not np.isfinite(gradient).all():
        raise NonFiniteError(
            "the gradient of the support images holds NaN or infinity",
            remedy="Compute the kernel in float64 (blocks.dtype), raise the ridge, or lower the learning rate.",
        )
    return gradient


def whole_plan(
    config: Blocks,
    kernel: Kernel,
    x: np.ndarray,
    z: np.ndarray | None = None,
    before: Mapping[str, Implementation] | None = None,
) -> Plan:
    """Return the tasks of K(x, z) as a whole, see `kip.blocks.plan.whole`; `before` as in `kip.blocks.choice.settled`.

    Raises:
        ShapeError: if the images do not fit each other or the kernel's poolings.
    """
    columns, rows = _sides(x, z)
    _check(kernel, columns, rows)
    room = room_of(config, kernel, columns.shape[1:], before)
    return whole(len(columns), None if z is None else len(rows), *room[:2], lanes=room.lanes)


def _check(kernel: Kernel, support: np.ndarray, target: np.ndarray) -> None:
    """Refuse images that do not fit each other or the kernel."""
    for name, images in (("support", support), ("target", target)):
        if images.ndim != 4 or images.shape[1:] != support.shape[1:]:
            raise ShapeError(f"shape of the {name} images", got=images.shape, expected=f"(N, *{support.shape[1:]})")
    kernel.check_images(*support.shape[1:3])


def _sides(x: np.ndarray, z: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of a matrix's columns and of its rows; none of the latter where both are the same."""
    return (x, x[:0]) if z is None else (z, x)


def _within(tasks: Sequence[Task], count: int) -> list[Task]:
    """Return tasks without the rows from `count` on."""
    cut = [task._replace(rows=(task.rows[0], min(task.rows[1], count))) for task in tasks]
    return [task for task in cut if task.rows[0] < task.rows[1]]
