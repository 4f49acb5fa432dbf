"""Whole kernel matrices in a folder, larger than the memory, computed task by task and resumed after a kill.

| file | what |
|---|---|
| train.npy | K(X, X), (n, n), symmetric to the last bit |
| test.npy | K(Z, X), (m, n) |
| test_diagonal.npy | K(z_i, z_i), (m,), which the variance of a Gaussian process needs |
| train_labels.npy, test_labels.npy | the classes, int64 |
| matrix.json | of which images, kernel and precision the matrices are, and how many of their tasks are done |

Tasks have a fixed order. A mark in matrix.json is written after the values that it speaks of have reached the disk, so
that a kill at any moment costs the tasks since the last mark, and the same call goes on with the next one. The bits of
a task depend on its images and the options alone, and so do those of the matrix.

Values are written to the files and never through a memory map, whose process a full disk would kill without a word.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import jax
import numpy as np

from kip import config
from kip.blocks import Blocks, Executor, KernelBlocks, LocalExecutor
from kip.blocks.assemble import Part, whole_plan
from kip.blocks.choice import settled
from kip.blocks.plan import Plan, Task
from kip.errors import DataError, OutputError, ShapeError
from kip.functions.kernel import Get, KernelFn, value_of
from kip.kernels import Kernel, own_function, permission
from kip.machine import kip_version, versions
from kip.progress import inner_stage, progress_bar, readable, say
from kip.storage.artefacts import digest
from kip.storage.files import atomic_write
from kip.storage.images import check_image_batch
from kip.storage.json_files import read_object
from kip.storage.locks import sole_writer

LOGGER = logging.getLogger(__name__)
FORMAT = 1
ABOUT = "matrix.json"
TRAIN, TEST, DIAGONAL = "train.npy", "test.npy", "test_diagonal.npy"
LABELS = ("train_labels.npy", "test_labels.npy")
Name = Literal["train", "test"]
MARK_SECONDS = 5.0
"""Seconds between two marks: each waits for the disk."""
TIMED_TASKS = 8
"""Matrices of fewer tasks are computed without a forecast, which itself takes two of them."""
REMEDY = "Name another folder with --out, or remove this one."


class StoredKernel(NamedTuple):
    """Whole kernel matrices that lie in a folder; `kip.load_kernel` opens them.

    Attributes:
        train: K(X, X), (n, n), a read-only memory map.
        test: K(Z, X), (m, n), likewise; None where the folder has none.
        test_diagonal: K(z_i, z_i), (m,); None where there is no `test`.
        train_labels: the classes of X, int64 (n,); None where they are not known.
        test_labels: the classes of Z, int64 (m,); None where they are not known.
        about: of what the matrices are: kernel, precision, data and versions, JSON-ready.
    """

    train: np.ndarray
    test: np.ndarray | None
    test_diagonal: np.ndarray | None
    train_labels: np.ndarray | None
    test_labels: np.ndarray | None
    about: dict[str, Any]

    def __repr__(self) -> str:
        test = "no test" if self.test is None else f"test {self.test.shape[0]}x{self.test.shape[1]}"
        return f"StoredKernel(train {len(self.train)}x{len(self.train)}, {test}, {self.train.dtype})"


class Job(NamedTuple):
    """The matrices that a folder is to hold.

    Attributes:
        kernel: the kernel.
        config: precision, memory of a tile and implementation.
        train: X (n, H, W, C), preprocessed.
        test: Z (m, H, W, C); None: K(X, X) alone.
        train_labels: the classes of X; None: not known.
        test_labels: the classes of Z; None: not known.
        about: of which data the images are, JSON-ready; another `about` is another matrix.
    """

    kernel: Kernel
    config: Blocks
    train: np.ndarray
    test: np.ndarray | None = None
    train_labels: np.ndarray | None = None
    test_labels: np.ndarray | None = None
    about: dict[str, Any] = {}  # noqa: RUF012  # never changed

    @property
    def sides(self) -> dict[Name, tuple[np.ndarray, np.ndarray | None]]:
        """The arguments of `KernelBlocks.parts`, by matrix."""
        both: dict[Name, tuple[np.ndarray, np.ndarray | None]] = {"train": (self.train, None)}
        return both if self.test is None else {**both, "test": (self.test, self.train)}

    @property
    def shapes(self) -> dict[Name, tuple[int, int]]:
        """The shapes of the matrices, by name."""
        return {name: (len(x), len(x if z is None else z)) for name, (x, z) in self.sides.items()}


class Outcome(NamedTuple):
    """The work that a call of `write` has done.

    Attributes:
        entries: the kernel entries that were computed; those of a symmetric matrix above the diagonal count once.
        forecast_seconds: the time that was forecast; None where it was not.
        resumed_tasks: the tasks that an earlier call had done.
        tasks: all tasks of all matrices.
    """

    entries: int
    forecast_seconds: float | None
    resumed_tasks: int
    tasks: int


def write_kernel(
    out: Path | str,
    train: Any,
    test: Any = None,
    *,
    kernel: str | Kernel | KernelFn = "ConvNet",
    get: Get | None = None,
    labels: Any = None,
    test_labels: Any = None,
    blocks: Blocks | None = None,
    executor: Executor | None = None,
    show_progress: bool = True,
) -> StoredKernel:
    """Compute K(train, train) and K(test, train) into a folder, and open them; the same call resumes after a kill.

    The values are those of `kip.kernel` to the last bit, whatever the executor. Memory holds the images and a few
    blocks; files are `kip.functions.stored`'s.

    Args:
        out: the folder, which is made if it is missing.
        train: images (n, H, W, C), preprocessed, float32 or float64.
        test: images (m, H, W, C); None: K(train, train) alone. It can be added by a later call.
        kernel: a value, a name, or a function of `kip.kernel_fn`, as for `kip.kernel`.
        get: `ntk` or `nngp`; None means the value's own, and `ntk` for a name.
        labels: the classes of `train`, integers (n,), kept beside the matrix; None keeps none.
        test_labels: the classes of `test`.
        blocks: precision, memory of a block and implementation; None: the defaults.
        executor: where blocks are computed, and left open; None: on all devices of this process.
        show_progress: whether a forecast and a bar are shown on stderr.

    Raises:
        ShapeError: if the images do not fit each other or the kernel.
        OutputError: if the folder holds a matrix of something else or is in use, or the disk has too little room.

    >>> import tempfile
    >>> x = np.eye(3, 4, dtype=np.float32).reshape(3, 2, 2, 1)
    >>> write_kernel(tempfile.mkdtemp(), x, x[:1], kernel="FC1", show_progress=False)
    StoredKernel(train 3x3, test 1x3, float32)
    """
    job = Job(
        value_of(kernel, get),
        blocks or Blocks(),
        np.asarray(train),
        None if test is None else np.asarray(test),
        None if labels is None else np.asarray(labels),
        None if test_labels is None else np.asarray(test_labels),
    )
    with LocalExecutor() if executor is None else contextlib.nullcontext(executor) as place:
        write(Path(out), job, place, show_progress=show_progress)
    return load_kernel(out)


def load_kernel(out: Path | str) -> StoredKernel:
    """Open the matrices of a folder as memory maps; nothing of them is read before it is used.

    Raises:
        DataError: if the folder holds none, or they are unfinished.
    """
    out = Path(out)
    about = _about(out)
    if about is None:
        raise DataError(
            f"no kernel matrix in {out}", remedy="`kip kernel DATA --out FOLDER` or kip.write_kernel makes one."
        )
    for name, known in about["matrices"].items():
        if known["done"] < known["tasks"]:
            raise DataError(
                f"{out} holds a part of its {name} matrix",
                got=f"{known['done']} of {known['tasks']} blocks",
                expected="all of them",
                remedy="Run the same command or call again: it goes on where it was.",
            )

    def opened(name: str, *, mapped: bool = True) -> np.ndarray | None:
        path = out / name
        if not path.is_file():
            return None
        try:
            return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read", got=error, expected="an array that kip wrote") from error

    train = opened(TRAIN)
    if train is None:
        raise DataError(f"no {TRAIN} in {out}", remedy="Remove the folder and compute the matrix again.")
    diagonal, labels, test_labels = (opened(name, mapped=False) for name in (DIAGONAL, *LABELS))
    return StoredKernel(train, opened(TEST), diagonal, labels, test_labels, about["of"])


def check(out: Path, job: Job) -> None:
    """Refuse what cannot be computed into a folder, before anything is.

    Raises:
        ShapeError: if the images do not fit each other, the labels or the kernel.
        ConfigError: if nobody permits the user's own function that the kernel names.
        OutputError: if the folder holds a matrix of something else, or the disk has too little room.
    """
    if (function := own_function(job.kernel)) is not None:
        permission.check(function)
    for name, images in (("train", job.train), ("test", job.test)):
        if images is not None:
            check_image_batch(f"the {name} images", images)
            if images.dtype not in (np.float32, np.float64) or not len(images):
                raise ShapeError(
                    f"the {name} images",
                    got=f"{len(images)} of {images.dtype}",
                    expected="at least one, float32 or float64",
                    remedy="Preprocess them, as kip.fit_preprocess does.",
                )
    for images, labels in ((job.train, job.train_labels), (job.test, job.test_labels)):
        if labels is not None and (images is None or labels.shape != (len(images),) or labels.dtype.kind not in "iu"):
            raise ShapeError("labels", got=f"{labels.dtype} {labels.shape}", expected="one integer for each image")
    _plans(job)
    about = _about(out)
    _check_same(out, about, job)
    wanted = 0
    for name, shape in job.shapes.items():
        size = _header(shape, job.config.dtype)[1]
        path = out / f"{name}.npy"
        known = about["matrices"].get(name) if about else None
        if known is None and path.exists():
            raise OutputError(f"{path} is there already", got=f"no word of it in {ABOUT}", remedy=REMEDY)
        if known is not None and known["done"] and not _is_whole(path, shape, job.config.dtype):
            raise OutputError(
                f"{path} is not what {ABOUT} says",
                got=f"{path.stat().st_size} bytes" if path.is_file() else "no file",
                expected=f"a matrix of {shape[0]}x{shape[1]} in {size} bytes",
                remedy="Remove the folder and compute the matrix again.",
            )
        wanted += max(0, size - (_allocated(path) if path.is_file() else 0))
    place = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    if (free := shutil.disk_usage(place).free) < wanted:
        raise OutputError(
            f"the disk of {out} has too little room for the matrices",
            got=f"{_mib(free)} free",
            expected=f"{_mib(wanted)}",
            remedy="Name a folder on another disk with --out, or take fewer images (--num-train, --num-test).",
        )


def write(
    out: Path, job: Job, executor: Executor, *, together: int | None = None, show_progress: bool = True
) -> Outcome:
    """Compute the matrices of a job into a folder, from the first task that is not marked as done.

    Args:
        out: the folder.
        job: the matrices.
        executor: where tasks are computed; it stays open.
        together: how many tasks the executor is given at a time, after which all are marked; None: all tasks, with a
            mark every `MARK_SECONDS`.
        show_progress: whether a forecast and a bar are shown on stderr.

    Raises:
        As `check`; OutputError: if the folder is in use, or a file cannot be written.
    """
    check(out, job)
    with sole_writer(out):
        try:
            return _write(out, job, executor, together, show_progress)
        except OSError as error:
            if isinstance(error, OutputError):
                raise
            raise OutputError(
                f"cannot write to {out}",
                got=error.strerror or repr(error),
                remedy="Make room on the disk; the same command then goes on where it was.",
            ) from error


def tasks_done(out: Path) -> int:
    """Return how many tasks of a folder are marked as done, over its matrices in their order."""
    about = _about(out)
    return sum(known["done"] for known in about["matrices"].values()) if about else 0


def forget(out: Path, keep: int) -> None:
    """Take the marks of all tasks back but those of the first, so that the others are computed again.

    Args:
        out: the folder.
        keep: how many tasks stay done, over all matrices in their order; -1 means none.
    """
    about = _about(out)
    if about is None:
        return
    keep = max(0, keep)
    for known in about["matrices"].values():
        known["done"] = min(known["done"], keep)
        keep -= known["done"]
    _save(out, about)
    (out / DIAGONAL).unlink(missing_ok=True)


def _write(out: Path, job: Job, executor: Executor, together: int | None, show_progress: bool) -> Outcome:
    about = _about(out) or {"format": FORMAT, "of": _of(job), "versions": versions(), "matrices": {}}
    plans = _plans(job)
    counts: dict[Name, int] = {name: len(made.ss) + len(made.ts) for name, made in plans.items()}
    for name, (x, z) in job.sides.items():
        images = digest(x) if z is None else digest(x, z)
        about["matrices"].setdefault(name, {"images": images, "tasks": counts[name], "done": 0})
    _save(out, about)  # before the files, so that none is there without a word of what it is
    _save_labels(out, job)
    before: dict[Name, int] = {name: int(about["matrices"][name]["done"]) for name in counts}
    left = {name: _entries(plans[name], before[name]) for name in counts}
    seconds = None
    if show_progress and sum(counts.values()) - sum(before.values()) >= TIMED_TASKS:
        seconds = _tell(out, job, plans, sum(left.values()))
    blocks = KernelBlocks(job.config, executor)
    total, resumed = sum(counts.values()), sum(before.values())
    what = f"kernel {job.kernel.label}"
    with progress_bar(total, what, shown=show_progress, unit=" blocks", initial=resumed, delay=0) as bar:
        for name, sides in job.sides.items():
            known = about["matrices"][name]

            def mark(done: int, known: dict[str, Any] = known) -> None:
                known["done"] = done
                _save(out, about)

            if before[name] < counts[name]:
                parts = blocks.parts(job.kernel, *sides, start=before[name], together=together)
                with _opened(out / f"{name}.npy", job.shapes[name], job.config.dtype) as file:
                    _fill(file, parts, before[name], mark, together, bar.update)
        if job.test is not None and not (out / DIAGONAL).is_file():
            diagonal = blocks.diagonal(job.kernel, job.test)
            atomic_write(out / DIAGONAL, lambda file: np.save(file, diagonal))
    return Outcome(sum(left.values()), seconds, resumed, total)


def _fill(
    file: _Matrix,
    parts: Iterator[list[Part]],
    done: int,
    mark: Callable[[int], None],
    together: int | None,
    on_task: Callable[[], None],
) -> None:
    """Write the values of tasks into a file, and mark them after they have reached the disk.

    Args:
        file: the matrix.
        parts: the values, from the first task that is not done.
        done: how many tasks are done.
        mark: notes how many are.
        together: after how many tasks they are marked; None: every `MARK_SECONDS`.
        on_task: called after each task.
    """
    first = marked = done
    marked_at = time.monotonic()
    try:
        for places in parts:
            for where, block in places:
                file.put(where, block)
            done += 1
            on_task()
            is_due = time.monotonic() - marked_at >= MARK_SECONDS if together is None else not (done - first) % together
            if is_due:
                file.sync()
                mark(done)
                marked, marked_at = done, time.monotonic()
    finally:  # what stops the work, such as Ctrl-C, costs nothing that is done
        if done > marked:
            file.sync()
            mark(done)


class _Matrix:
    """A matrix in a .npy file that is open for writing.

    Args:
        file: the open file.
        columns: the length of a row.
        dtype: of its entries.
        offset: where they begin, in bytes.
    """

    def __init__(self, file: BinaryIO, columns: int, dtype: str, offset: int):
        self._file, self._columns, self._dtype, self._offset = file, columns, np.dtype(dtype), offset

    def put(self, where: tuple[slice, slice], block: np.ndarray) -> None:
        """Write a block, row by row."""
        rows, columns = where
        block = np.ascontiguousarray(block, self._dtype)
        for row, values in zip(range(rows.start, rows.stop), block, strict=True):
            self._file.seek(self._offset + (row * self._columns + columns.start) * self._dtype.itemsize)
            self._file.write(values.data)

    def sync(self) -> None:
        """Wait until all that was written is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())


@contextlib.contextmanager
def _opened(path: Path, shape: tuple[int, int], dtype: str) -> Iterator[_Matrix]:
    """Open the file of a matrix for writing; one that is not there, or is not whole, is made, with all of its room."""
    header, size = _header(shape, dtype)
    is_whole = _is_whole(path, shape, dtype)
    with open(path, "r+b" if path.exists() else "x+b") as file:
        if not is_whole:
            file.truncate()
            file.write(header)
            file.flush()
            if hasattr(os, "posix_fallocate"):  # a disk that is too full says so now, and not after hours
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
        yield _Matrix(file, shape[1], dtype, len(header))


def _is_whole(path: Path, shape: tuple[int, int], dtype: str) -> bool:
    """Return whether a file has the header and the size of a matrix."""
    header, size = _header(shape, dtype)
    if not path.is_file() or path.stat().st_size != size:
        return False
    with open(path, "rb") as file:
        return file.read(len(header)) == header


def _header(shape: tuple[int, int], dtype: str) -> tuple[bytes, int]:
    """Return the header of a matrix's file, and the size of the file in bytes."""
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue(), len(header.getvalue()) + math.prod(shape) * np.dtype(dtype).itemsize


def _allocated(path: Path) -> int:
    """Return the bytes of a file that have room on the disk; its size where the system does not say."""
    status = path.stat()
    return min(status.st_size, 512 * status.st_blocks) if hasattr(status, "st_blocks") else status.st_size


def _plans(job: Job) -> dict[Name, Plan]:
    return {name: whole_plan(job.config, job.kernel, *sides) for name, sides in job.sides.items()}


def _entries(made: Plan, start: int) -> int:
    """Return the entries that the tasks from `start` on compute."""
    return sum(_entries_of(task) for task in [*made.ss, *made.ts][start:])


def _entries_of(task: Task) -> int:
    height, width = task.shape
    return height * (height + 1) // 2 if task.matrix == "ss" and task.rows == task.columns else height * width


def _tell(out: Path, job: Job, plans: dict[Name, Plan], entries: int) -> float:
    """Say on stderr what the work will take, from a task that is timed here; return it in seconds."""
    size = next(iter(plans.values())).size
    x, z = job.train[: size.rows], job.train[-size.columns :]
    seconds = 0.0
    with inner_stage("timing a block"), LocalExecutor(jax.local_devices()[:1]) as local:
        for _ in range(2):  # the first compiles
            began = time.monotonic()
            KernelBlocks(job.config, local).matrix(job.kernel, x, z)
            seconds = time.monotonic() - began
    per_entry = seconds / (len(x) * len(z))
    forecast = per_entry * entries
    if jax.default_backend() != "cpu":  # the devices of a CPU are one processor
        forecast /= jax.local_device_count()
    room = sum(_header(shape, job.config.dtype)[1] for shape in job.shapes.values())
    microseconds = f"{1e6 * per_entry:.{0 if per_entry > 1e-4 else 2}f}"
    say(
        f"kip: {entries} entries of {job.kernel.label} take about {microseconds} microseconds each on this machine, "
        f"about {readable(forecast)} in all; {_mib(room)} go to {out}. It can be stopped and goes on where it was."
    )
    return forecast


def _of(job: Job) -> dict[str, Any]:
    """Return all that the values depend on beside the images, JSON-ready, and the words of the job about these."""
    of = {
        "kernel": job.kernel.label,
        "value": config.to_dict(job.kernel),
        "dtype": job.config.dtype,
        "implementation": settled(job.config, job.kernel, next(iter(job.sides.values()))[0].shape[1:]),
        "memory_mib": job.config.memory_mib,
        "kip": kip_version(),
        "about": job.about,
    }
    return json.loads(json.dumps(of))


def _check_same(out: Path, about: dict[str, Any] | None, job: Job) -> None:
    """Refuse a folder that holds another job's matrices; warn where other libraries began them.

    Raises:
        OutputError: naming the first thing that differs.
    """
    if about is None:
        return
    known, wanted = about["of"], _of(job)
    unfinished = any(matrix["done"] < matrix["tasks"] for matrix in about["matrices"].values())
    for name in ("kernel", "value", "dtype", "implementation", "memory_mib", *(["kip"] if unfinished else [])):
        if known.get(name) != wanted[name]:
            raise OutputError(
                f"{out} holds a kernel matrix of another {'version of kip' if name == 'kip' else name}",
                got=f"{known.get(name)}",
                expected=f"{wanted[name]}",
                remedy=REMEDY if name != "kip" else f"Finish it with that version. {REMEDY}",
            )
    for name, (x, z) in job.sides.items():
        matrix = about["matrices"].get(name)
        if matrix is not None and matrix["images"] != (digest(x) if z is None else digest(x, z)):
            raise OutputError(
                f"{out} holds a {name} matrix of other images",
                got=_others(known.get("about"), wanted["about"]),
                expected=_others(wanted["about"], known.get("about")),
                remedy=REMEDY,
            )
    if unfinished and about.get("versions") != versions():
        LOGGER.warning("%s was begun with other libraries or another machine: its last bits may differ", out)


def _others(about: Any, beside: Any) -> str:
    """Return the words about some images that differ from those about others."""
    if not isinstance(about, dict) or not isinstance(beside, dict):
        return str(about)
    differing = {name: value for name, value in about.items() if value != beside.get(name)}
    return json.dumps(differing) if differing else "other pixels under the same words"


def _about(out: Path) -> dict[str, Any] | None:
    """Return what a folder says of its matrices; None where it says nothing.

    Raises:
        OutputError: if it says something that kip does not write.
    """
    if not (out / ABOUT).exists():
        return None
    about = read_object(out / ABOUT)
    matrices = about.get("matrices") if about else None
    is_whole = (
        about is not None
        and about.get("format") == FORMAT
        and isinstance(about.get("of"), dict)
        and isinstance(matrices, dict)
        and all(
            name in ("train", "test")
            and isinstance(known, dict)
            and all(isinstance(known.get(field), int) for field in ("done", "tasks"))
            and 0 <= known["done"] <= known["tasks"]
            and isinstance(known.get("images"), str)
            for name, known in matrices.items()
        )
    )
    if not is_whole:
        raise OutputError(f"{out / ABOUT} is damaged, or of another version of kip", remedy=REMEDY)
    return about


def _save(out: Path, about: dict[str, Any]) -> None:
    text = json.dumps(about, indent=1) + "\n"
    atomic_write(out / ABOUT, lambda file: file.write(text.encode()))


def _save_labels(out: Path, job: Job) -> None:
    for name, labels in zip(LABELS, (job.train_labels, job.test_labels)):
        if labels is not None:
            kept = np.asarray(labels, np.int64)
            atomic_write(out / name, lambda file, kept=kept: np.save(file, kept))


def _mib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


__all__ = ["StoredKernel", "load_kernel", "write_kernel"]
