"""A worker: answers messages with messages, whatever brings them.

    open       run, configuration, versions, recipe, fingerprint     which run it serves; loads the data set once
    begin      epoch, kernel, tile size, X_s, where targets are       a step's images; epochs count them
    forward    epoch, task                                            the task's block of the kernel matrix
    backward   epoch, task, cotangent                                 the gradient of the task's support columns
    ping                                                              who it is

Every message can come twice, late, or from a server that has died: tasks are pure functions of what `begin` brought,
and a message of another run, configuration or epoch is refused with an error whose `code` says so. `handle` never
raises.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import platform
import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import numpy as np
import pydantic

from kip import machine
from kip.blocks import Images, LocalExecutor, Source, Task, TileSize, choice
from kip.errors import DataError, KipError, MessageError, WorkerError
from kip.kernels import Implementation, Kernel, own_function, permission
from kip.workers.codec import Message, decode, encode
from kip.workers.targets import Targets

LOGGER = logging.getLogger(__name__)
BEHIND = 1.0
"""Seconds that a task waits for the message before it, which begins its epoch, and which another thread has taken."""
_KERNEL = pydantic.TypeAdapter(Kernel)


class _Run(NamedTuple):
    """The content of `open`."""

    run: str
    configuration: str
    targets: Targets | None
    why: str


class _Epoch(NamedTuple):
    """The content of `begin`. Each has an executor of its own, so that a late task cannot meet another epoch's
    images.
    """

    number: int
    executor: LocalExecutor
    images: Images
    held: dict[str, np.ndarray]


class Worker:
    """Computes tasks on one process's devices. Thread-safe; messages may be handled at the same time.

    Args:
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        devices: JAX devices; None means all local ones.
        stax: the functions of `kip.Stax` and `kip.Features` kernels that may be loaded. A message can name others, and
            they are refused: loading one runs its file.
        use_data: whether to load the data set; without it, the server sends the target images.
    """

    def __init__(
        self,
        *,
        data_dir: Path | None = None,
        devices: Sequence[Any] | None = None,
        stax: Sequence[str] = (),
        use_data: bool = True,
    ):
        self._data_dir, self._use_data = data_dir, use_data
        self._devices = devices
        self._stax = frozenset(stax)
        permission.permit(*stax)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        """Told of each epoch that has begun, or could not."""
        self._beginning: set[int] = set()
        """The epochs that begin just now."""
        self._failed = -1
        """The epoch that could not begin, if the last one could not."""
        self._opening = threading.Lock()
        self._run: _Run | None = None
        self._epoch: _Epoch | None = None
        self._targets: Targets | None = None

    def handle(self, payload: bytes) -> bytes:
        """Return the answer to a message; an `error` message where it cannot be answered."""
        try:
            return encode(self._answer(decode(payload)))
        except WorkerError as error:
            return _error(error.code, str(error))
        except MessageError as error:
            return _error("message", str(error))
        except KipError as error:
            return _error("compute", str(error))
        except Exception as error:  # whatever a payload or a kernel does, the worker lives on
            LOGGER.warning("a message could not be answered", exc_info=True)
            return _error("compute", f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Let go of devices and images; safe to call twice."""
        with self._lock:
            epoch, self._epoch, self._run = self._epoch, None, None
        if epoch:
            epoch.executor.close()

    def _answer(self, message: Message) -> Message:
        answers = {"open": self._open, "begin": self._begin_epoch, "forward": self._task, "backward": self._task}
        if message.kind == "ping":
            return Message("pong", {"pid": os.getpid(), "run": self._run.run if self._run else None})
        if message.kind not in answers:
            raise WorkerError("message", "kind of a message", got=repr(message.kind)[:80], expected=", ".join(answers))
        return answers[message.kind](message)

    def _open(self, message: Message) -> Message:
        run, configuration = (_text(message, name) for name in ("run", "configuration"))
        theirs, ours = _field(message, "versions", dict), versions()
        if theirs != ours:
            raise WorkerError(
                "versions",
                "server and worker have different versions, and their bits would differ",
                got=theirs,
                expected=str(ours),
                remedy="Install the same set for both.",
            )
        with self._opening:
            if self._run is None or (self._run.run, self._run.configuration) != (run, configuration):
                targets, why = self._load(message)
                with self._lock:
                    epoch, self._epoch = self._epoch, None
                    self._run = _Run(run, configuration, targets, why)
                if epoch:
                    epoch.executor.close()
            opened = self._run
        return Message(
            "opened",
            {"pid": os.getpid(), "hardware": hardware(), "holds": opened.targets is not None, "why": opened.why},
        )

    def _load(self, message: Message) -> tuple[Targets | None, str]:
        recipe = message.fields.get("recipe")
        if not self._use_data or not isinstance(recipe, dict):
            return None, "it was not asked to"
        try:
            targets = self._targets
            if targets is None or recipe != targets.given:
                targets = self._targets = Targets(recipe, self._data_dir)
        except KipError as error:
            return None, str(error)
        if targets.fingerprint != message.fields.get("fingerprint"):
            return None, "its data set or preprocessing gives other bytes than the server's"
        return targets, ""

    def _begin_epoch(self, message: Message) -> Message:
        number = _whole(message.fields.get("epoch"), "epoch", 0, 1 << 62)
        with self._lock:
            self._beginning.add(number)
            self._failed = -1
        try:
            return self._begin(message, number)
        finally:
            with self._changed:
                self._beginning.discard(number)
                self._failed = number if self._epoch is None or self._epoch.number < number else -1
                self._changed.notify_all()

    def _begin(self, message: Message, number: int) -> Message:
        run = self._of_this_run(message)
        with self._lock:
            current = self._epoch
        if current and number <= current.number:
            if number < current.number:
                raise WorkerError("step", "an epoch that is over", got=number, expected=f"at least {current.number}")
            return Message("begun", {"epoch": number})
        images, held = self._images(message, run, current.held if current else {})
        executor = LocalExecutor(self._devices)
        executor.begin(images)
        epoch = _Epoch(number, executor, images, held)
        with self._lock:
            newest = self._run is run and (self._epoch is None or self._epoch.number < number)
            old, self._epoch = (self._epoch, epoch) if newest else (epoch, self._epoch)
        if old:
            old.executor.close()
        return Message("begun", {"epoch": number})

    def _images(
        self, message: Message, run: _Run, before: dict[str, np.ndarray]
    ) -> tuple[Images, dict[str, np.ndarray]]:
        """Put a step's images together from what came, what is held from the last step, and the data set."""
        kernel = self._kernel(_field(message, "kernel", dict))
        dtype = np.dtype(_choice(message, "dtype", ("float32", "float64")))
        held = {}
        support = held[_text(message, "support")] = self._array(message, "support", before)
        if message.fields.get("source") is None:
            target = held[_text(message, "target")] = self._array(message, "target", before)
        else:
            source = _source(_field(message, "source", dict), message.arrays.get("indices"))
            if run.targets is None:
                raise WorkerError("images", "this worker does not hold the data set", got=run.why)
            try:
                target = run.targets.get(source)
            except DataError as error:  # the server sends them then
                raise WorkerError("images", str(error).rstrip(".")) from None
        for name, array in (("support", support), ("target", target)):
            if array.ndim != 4 or array.shape[1:] != support.shape[1:] or not min(support.shape):
                raise WorkerError("message", f"shape of the {name} images", got=array.shape)
        if support.dtype != dtype:
            raise WorkerError("message", "dtype of the support images", got=support.dtype, expected=dtype.name)
        kernel.check_images(*support.shape[1:3])
        n, m = len(support), max(1, len(target))
        sides = _field(message, "size", list)
        if len(sides) != 4:
            raise WorkerError("message", "size of a tile", got=sides, expected="rows, columns, side and run")
        limits = ((1, m), (1, n), (1, n), (0, 1 << 40))
        size = TileSize(*(_whole(side, "side of a tile", *limit) for side, limit in zip(sides, limits)))
        implementation = _choice(message, "implementation", get_args(Implementation))
        if why := choice.fault(kernel, support.shape[1:], implementation):  # type: ignore[arg-type]
            raise WorkerError(
                "form",
                f"this worker cannot compute {kernel.label} in the server's form {implementation!r}: it {why}",
                remedy="Start the worker on a device like the server's, or a run with --blocks.implementation engine.",
            )
        target = np.asarray(target, dtype)
        return Images(kernel, support, target, size, implementation), held  # type: ignore[arg-type]

    def _array(self, message: Message, name: str, before: dict[str, np.ndarray]) -> np.ndarray:
        digest = _text(message, name)
        if name in message.arrays:
            return message.arrays[name]
        if digest not in before:
            raise WorkerError("images", f"the {name} images were never sent", got=digest)
        return before[digest]

    def _kernel(self, given: dict[str, Any]) -> Kernel:
        try:
            kernel = _KERNEL.validate_json(json.dumps(given))
        except (pydantic.ValidationError, KipError) as error:
            raise WorkerError("message", "kernel of a message", got=str(error)[:200]) from None
        if (function := own_function(kernel)) is not None and function not in self._stax:
            raise WorkerError(
                "message",
                "a function that this worker may not load",
                got=function[:200],
                remedy="Start the worker with --stax FUNCTION.",
            )
        return kernel

    def _task(self, message: Message) -> Message:
        self._of_this_run(message)
        number = _whole(message.fields.get("epoch"), "epoch", 0, 1 << 62)
        epoch = self._epoch_of(number)
        if epoch is None or epoch.number != number:
            raise WorkerError("step", "a task of another step", got=number, expected=f"{epoch and epoch.number}")
        task = _task(_field(message, "task", list), epoch.images)
        try:
            if message.kind == "forward":
                (result,) = epoch.executor.forward([task])
            else:
                cotangent = message.arrays.get("cotangent")
                if cotangent is None or cotangent.shape != task.shape or cotangent.dtype != epoch.images.support.dtype:
                    raise WorkerError("message", "cotangent of a task", got=cotangent is not None and cotangent.shape)
                (result,) = epoch.executor.backward([task], [cotangent])
        except (CancelledError, RuntimeError) as error:
            if isinstance(error, WorkerError) or self._epoch is epoch:
                raise
            raise WorkerError("step", "the step was over before the task", got=number) from None
        return Message("result", {"epoch": number}, {"result": np.asarray(result)})

    def _epoch_of(self, number: int) -> _Epoch | None:
        """Return the epoch of a task, and wait for the message that begins it, which travelled before the task."""
        deadline = time.monotonic() + BEHIND
        with self._changed:
            while (self._epoch is None or self._epoch.number < number) and self._failed != number:
                if number not in self._beginning and time.monotonic() >= deadline:
                    break
                self._changed.wait(BEHIND)
            return self._epoch

    def _of_this_run(self, message: Message) -> _Run:
        with self._lock:
            run = self._run
        if run is None or run.run != message.fields.get("run"):
            raise WorkerError("run", "a message of another run", got=repr(message.fields.get("run"))[:80])
        if run.configuration != message.fields.get("configuration"):
            raise WorkerError("configuration", "a message of another configuration")
        return run


@functools.cache
def hardware() -> str:
    """Return what computes here, in words; the bits of a task are the same on hardware of the same words."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    model = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return f"{os.cpu_count()} x {model}"  # a product's order of summation may depend on the number of threads


@functools.cache
def versions() -> dict[str, str]:
    """Return what must be equal on server and worker for their bits to be."""
    return {"jax": jax.__version__, "numpy": np.__version__, "kip": machine.kip_version() or "unknown"}


def _error(code: str, problem: str) -> bytes:
    return encode(Message("error", {"code": code, "problem": problem[:2000]}))


def _field(message: Message, name: str, kind: type) -> Any:
    value = message.fields.get(name)
    if not isinstance(value, kind):
        raise WorkerError("message", f"{name} of a message", got=repr(value)[:80], expected=f"a {kind.__name__}")
    return value


def _text(message: Message, name: str) -> str:
    return _field(message, name, str)


def _choice(message: Message, name: str, of: Sequence[str]) -> str:
    value = message.fields.get(name)
    if value not in of:
        raise WorkerError("message", f"{name} of a message", got=repr(value)[:80], expected=", ".join(of))
    return value


def _whole(value: Any, name: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise WorkerError("message", f"{name} of a message", got=repr(value)[:80], expected=f"{least}..{most}")
    return value


def _task(given: list[Any], images: Images) -> Task:
    if len(given) != 5 or given[0] not in ("ss", "ts"):
        raise WorkerError("message", "a task", got=repr(given)[:80], expected="[matrix, rows, columns]")
    matrix, n = given[0], len(images.support)
    most = n if matrix == "ss" else len(images.target)
    first, last, left, right = (_whole(number, "a task", 0, max(n, most)) for number in given[1:])
    side = images.size.side
    is_strip = left == first and right == n
    is_tile = first <= left and max(last - first, right - left) <= side  # of a whole matrix
    if not (first < last <= most and left < right <= n and (matrix == "ts" or is_strip or is_tile)):
        raise WorkerError("message", "a task outside the images", got=repr(given)[:80])
    return Task(matrix, (first, last), (left, right))


def _source(given: dict[str, Any], indices: np.ndarray | None) -> Source:
    split, step, rows = given.get("split"), given.get("step"), given.get("rows")
    checksum = given.get("checksum")
    if split not in ("train", "validation", "test") or (indices is not None and indices.dtype != np.int64):
        raise WorkerError("message", "source of target images", got=repr(given)[:80])
    if rows is not None:
        if not isinstance(rows, list) or len(rows) != 2:
            raise WorkerError("message", "rows of target images", got=repr(rows)[:80])
        start, stop = (_whole(number, "rows of target images", 0, 1 << 40) for number in rows)
        rows = (start, stop)
    for number in (step, checksum):
        if number is not None:
            _whole(number, "source of target images", 0, 1 << 40)
    return Source(split, indices, step, rows, checksum)
