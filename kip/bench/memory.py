"""Benchmark of an update's memory: arrays from memory that the process keeps, and from fresh pages of the system's.

Both take turns in one process, on the same network and images. Pages are fresh where the C library gave the memory of
an earlier array back; `kip.machine.keep_freed_memory` says when.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kip import machine
from kip.errors import ConfigError
from kip.networks import Model, Network

NETWORK = Network("ConvNet-D3", width=32)
TURNS = 5
"""The number of turns in which memory is kept and given back."""


class Kept(NamedTuple):
    """The cost of the gradient of a batch, with memory that is kept and with memory that is given back.

    Attributes:
        images: images of a batch.
        kept_s: seconds, the median.
        given_back_s: the same, where freed memory is given back.
        kept_pages: fresh pages of one gradient.
        given_back_pages: the same, where freed memory is given back.
    """

    images: int
    kept_s: float
    given_back_s: float
    kept_pages: float
    given_back_pages: float

    @property
    def ratio(self) -> float:
        """The time with memory that is given back through the time with memory that is kept."""
        return self.given_back_s / self.kept_s


def measure(batches: Sequence[int], image: tuple[int, int, int], updates: int) -> list[Kept]:
    """Return what gradients cost, and leave the process with memory that is kept.

    Args:
        batches: images of a batch.
        image: (H, W, C).
        updates: gradients that are timed in each turn.

    Raises:
        ConfigError: if this system's C library cannot be told.
    """
    if not machine.keep_freed_memory():
        raise ConfigError(
            "kip bench memory",
            got="a C library that cannot be told, or one that the environment sets",
            expected="glibc",
            remedy=f"Unset {', '.join(machine.SETTINGS)}, if they are set.",
        )
    model = Model(NETWORK, 10)
    variables = model.init(jax.random.key(0), image)
    gradient = jax.jit(jax.grad(lambda variables, images: (model.apply(variables, images).logits ** 2).sum()))
    rows = []
    for count in batches:
        images = jnp.asarray(np.random.default_rng(0).standard_normal((count, *image)), jnp.float32)
        jax.block_until_ready(gradient(variables, images))  # which compiles
        seconds: dict[bool, list[float]] = {True: [], False: []}
        pages: dict[bool, list[int]] = {True: [], False: []}
        for _ in range(TURNS):
            for keep in (True, False):
                machine.keep_freed_memory(keep=keep)
                jax.block_until_ready(gradient(variables, images))  # which gets what it will keep
                for _ in range(updates):
                    begun, before = time.perf_counter(), machine.fresh_pages()
                    jax.block_until_ready(gradient(variables, images))
                    seconds[keep].append(time.perf_counter() - begun)
                    pages[keep].append(machine.fresh_pages() - before)
        rows.append(Kept(count, *(float(np.median(of[keep])) for of in (seconds, pages) for keep in (True, False))))
    machine.keep_freed_memory()
    return rows


def table(rows: Sequence[Kept]) -> str:
    """Return the measurements as text."""
    lines = [f"{'images':>6}  {'kept, s':>8}  {'given back, s':>13}  {'ratio':>5}  fresh pages, kept and given back"]
    for row in rows:
        lines.append(
            f"{row.images:6}  {row.kept_s:8.4f}  {row.given_back_s:13.4f}  {row.ratio:5.2f}  "
            f"{row.kept_pages:.0f}, {row.given_back_pages:.0f}"
        )
    return "\n".join(lines)
