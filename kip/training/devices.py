"""All devices of the machine: several trainings dealt to them in turn, or the images of one training spread over them.

Several trainings take one thread for each device. The images of one update are spread by `jax.sharding`: XLA computes
each device's share of the gradient and adds the shares up; the arrays of a network are on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")
Tree = TypeVar("Tree")


def over_devices(tasks: Sequence[Callable[[], T]]) -> Iterator[T]:
    """Yield the result of each task, in the order of the tasks, whichever device computed it.

    Task i runs on device i modulo their number, with that device as JAX's default, so that a task's arrays are made
    there. Results have the same bits whatever the number of devices, if these are of one kind. Where a default device
    is set already, as inside of a task, or there is one device or one task, all run there and in the calling thread.

    Args:
        tasks: functions without arguments.

    Raises:
        Whatever a task raises; tasks that have not begun are dropped then.
    """
    devices = jax.local_devices()
    if len(devices) == 1 or len(tasks) == 1 or jax.config.jax_default_device is not None:  # type: ignore[attr-defined]
        for task in tasks:
            yield task()
        return

    def on_device(task: Callable[[], T], device: Any) -> T:
        with jax.default_device(device):
            return task()

    threads = [ThreadPoolExecutor(1, thread_name_prefix="kip-training") for _ in devices[: len(tasks)]]
    try:
        waiting = [
            threads[index % len(threads)].submit(on_device, task, devices[index % len(threads)])
            for index, task in enumerate(tasks)
        ]
        for future in waiting:
            yield future.result()
    finally:
        for thread in threads:
            thread.shutdown(wait=True, cancel_futures=True)


def free_devices() -> int:
    """Return the number of devices for one training: all of the machine, or one where a default device is set."""
    return 1 if jax.config.jax_default_device is not None else jax.local_device_count()  # type: ignore[attr-defined]


def spread(batch: Tree, devices: int) -> Tree:
    """Return a batch whose rows are dealt to the machine's first devices in equal shares; within `jax.jit`.

    Args:
        batch: a pytree of arrays (b, ...).
        devices: the number of devices; as many are taken as divide b. With one, the batch comes back as it is.
    """
    leaves = jax.tree.leaves(batch)
    taken = max(count for count in range(1, devices + 1) if all(len(leaf) % count == 0 for leaf in leaves))
    if taken == 1 or not leaves:
        return batch
    by_rows = NamedSharding(Mesh(np.array(jax.local_devices()[:taken]), ("images",)), PartitionSpec("images"))
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, by_rows), batch)
