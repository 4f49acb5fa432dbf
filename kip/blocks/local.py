"""The local executor: this process, one thread for each JAX device."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, TypeVar

import jax
import numpy as np

from kip.blocks import task as tasking
from kip.blocks.plan import Task
from kip.blocks.tile import Images
from kip.precision import float64
from kip.storage.artefacts import digest

T = TypeVar("T")

TASKS_AHEAD = 2
"""Tasks handed out for each device at a time: enough to keep it busy, few enough to bound memory."""


class LocalExecutor:
    """Runs tasks on the devices of this process; keeps the protocol `kip.blocks.Executor`.

    Args:
        devices: JAX devices; None means all local devices of the default backend.
    """

    def __init__(self, devices: Sequence[Any] | None = None):
        self._devices = list(jax.local_devices() if devices is None else devices)
        self._images: list[Images] = []
        self._held: str | None = None
        self._mine = threading.local()
        order = itertools.count()
        self._threads = ThreadPoolExecutor(
            len(self._devices), "kip-device", initializer=lambda: setattr(self._mine, "device", next(order))
        )

    @property
    def places(self) -> int:
        """The number of devices."""
        return len(self._devices)

    def begin(self, images: Images) -> None:
        """Copy the step's images to every device; targets that are those of the step before are there already."""
        target = self._identity(images.target)
        held = self._images if target is not None and target == self._held else []
        with _precision(images):
            targets = [one.target for one in held] or [jax.device_put(images.target, one) for one in self._devices]
            self._images = [
                images._replace(support=jax.device_put(images.support, device), target=target)
                for device, target in zip(self._devices, targets, strict=True)
            ]
        self._held = target

    def forward(self, tasks: Sequence[Task]) -> Iterator[np.ndarray]:
        """Yield each task's block of the kernel matrix, in order."""
        return self._in_order(tasking.forward, ((task,) for task in tasks))

    def backward(self, tasks: Sequence[Task], cotangents: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield each task's gradient of its support columns, in order."""
        return self._in_order(tasking.backward, zip(tasks, cotangents))

    def close(self) -> None:
        """End the threads, dropping tasks that have not begun, and let go of the images."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._images, self._held = [], None

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def _identity(self, target: Any) -> str | None:
        """Return what tells a step's targets from others; None where copying them costs less than finding out."""
        if len(self._devices) == 1 and self._devices[0].platform == "cpu":
            return None
        return digest(np.asarray(target))

    def _in_order(self, run: Callable[..., T], tasks: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        def on_my_device(*task: Any) -> T:
            images = self._images[self._mine.device]
            with _precision(images):
                return run(images, *task)

        waiting = deque()
        for task in tasks:
            waiting.append(self._threads.submit(on_my_device, *task))
            if len(waiting) > TASKS_AHEAD * len(self._devices):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _precision(images: Images):
    # The setting is local to a thread, so that every device's thread enters it for itself.
    return float64() if images.support.dtype == np.float64 else nullcontext()
