"""Batches of a set that is not in memory: read and preprocessed on the host while the device makes earlier updates.

Update `step` takes the same images in the same order as from a set on the device. The indices are a function of
(key, step), so that a training that goes on after a kill needs no state of a loader. Threads make batches ahead, since
reading files and NumPy's arithmetic release Python's lock. The batches come in the order of the updates.

Grain, the loader of JAX's ecosystem, was weighed. This file does the work of its random access and its threads. Its
worker processes would help with pictures that are decoded in every epoch; here they are decoded once
(`kip.data.decoded`). It needs protobuf >= 5.28, and the launchpad extra needs 3.19.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from kip.storage.images import Images, Lazy
from kip.training.batches import Batches

AHEAD = 4
"""The number of batches that are made, or being made, before they are asked for."""
THREADS = 2
"""The number of threads that make batches."""


class GatheredBatch(NamedTuple):
    """The batch of an update.

    Attributes:
        indices: of its images in the set, (b,); with r networks (r, b).
        images: (b, H, W, C) or (r, b, H, W, C), on the device.
        labels: the labels of these images, a pytree.
    """

    indices: np.ndarray
    images: Array
    labels: Any


def on_device(images: Images | Array) -> Array | Lazy:
    """Return images on JAX's default device; those that are not in memory stay where they are."""
    return images if isinstance(images, Lazy) else jnp.asarray(images)


def gather_batches(images: Lazy, labels: Any, batches: Batches, keys: Array, steps: range) -> Generator[GatheredBatch]:
    """Yield the batches of updates, made ahead of them; closing the iterator stops that.

    Args:
        images: of the whole set.
        labels: arrays or `Lazy` with a row for each image, a pytree.
        batches: the batches of the set.
        keys: the key that `Batches.indices` takes, (); or (r,) for r networks.
        steps: the updates.
    """
    device = jax.config.jax_default_device  # type: ignore[attr-defined]  # a thread would not know it
    labels = jax.tree.map(lambda part: part if isinstance(part, Lazy) else np.asarray(part), labels)
    waiting: deque[Future[GatheredBatch]] = deque()
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="kip-batches")
    try:
        for indices in _indices(batches, keys, steps):
            waiting.append(threads.submit(_gather, images, labels, indices, device))
            if len(waiting) == AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def _gather(images: Lazy, labels: Any, indices: np.ndarray, device: Any) -> GatheredBatch:
    def rows(of: Any) -> Array:
        taken = of[indices.reshape(-1)]
        return jax.device_put(taken.reshape(*indices.shape, *taken.shape[1:]), device)

    return GatheredBatch(indices, rows(images), jax.tree.map(rows, labels))


def _indices(batches: Batches, keys: Array, steps: range) -> Iterator[np.ndarray]:
    """Yield the indices of updates, (b,) or (r, b): those of `Batches.indices`, the order of an epoch computed once."""
    order, epoch_of_order = None, None
    for step in steps:
        length = batches.length(step)
        if batches.count <= batches.size:
            yield np.broadcast_to(np.arange(batches.count), (*keys.shape, batches.count))
            continue
        epoch, position = (step, 0) if batches.drawn == "draws" else divmod(step, batches.of_epoch)
        if order is None or epoch != epoch_of_order:
            order, epoch_of_order = np.asarray(_order(keys, epoch, batches=batches)), epoch
        yield order[..., position * batches.size :][..., :length]


@partial(jax.jit, static_argnames=("batches",))
def _order(keys: Array, number: Array, *, batches: Batches) -> Array:
    """Return the order of an epoch, or of an update that draws, (N,) or (r, N)."""
    return jax.vmap(batches.order, (0, None))(keys, number) if keys.ndim else batches.order(keys, number)
