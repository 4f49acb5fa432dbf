"""Benchmark of the methods with finite networks: updates a second and memory, at papers' sizes and at small ones.

Images are random, since an update costs the same on any. Preparation is cut to one update of each network and teacher.
An update's time is the median of several after compiling; beside it stands the processor time of all threads, which
other work on the machine disturbs less.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from kip.blocks import KernelBlocks
from kip.data import Augment, ClassIndex
from kip.krr import Ridge
from kip.methods.contract import Method
from kip.methods.features.frepo import FRePo
from kip.methods.features.krr_st import KRRST
from kip.methods.features.pool import Pool
from kip.methods.features.rfad import RFAD
from kip.methods.problem import Problem
from kip.methods.unrolled.ld import LD
from kip.networks import Network
from kip.preprocess import Preprocess, fit
from kip.rng import generator
from kip.storage.artefacts import Store
from kip.training.learner import Training
from kip.training.recipe import Optimizer
from kip.training.self_supervised import Teacher

Size = Literal["small", "paper"]
ENOUGH_S = 60.0
"""No further update begins after so many seconds."""


class Subject(NamedTuple):
    """A method at a size.

    Attributes:
        method: its configuration.
        image: (H, W, C).
        reduced: what is smaller than the paper's, since an update would take minutes on a CPU; empty for nothing.
    """

    method: Method
    image: tuple[int, int, int]
    reduced: str = ""


class Row(NamedTuple):
    """The cost of a method."""

    method: str
    size: Size
    updates_per_second: float
    """The inverse of the median of the updates' times."""
    cpu_seconds: float
    """The processor time of an update, over all threads; the least of the updates."""
    state_mib: float
    """The size of what the method keeps between updates: set, optimiser, networks."""
    peak_mib: float | None
    """The peak of memory so far, of the accelerator or of this process; None where the system does not say."""
    reduced: str


_GREY, _RGB = (28, 28, 1), (32, 32, 3)
_SMALL = Network("ConvNet-D3", width=16, norm="none", w_std=1.0, growth=2)
_TEACHER = Network("ConvNet-D3", width=16, norm="batch", growth=2)
_ADAM = Optimizer("adam", 1e-3)
SUBJECTS: dict[tuple[str, Size], Subject] = {
    ("ld", "small"): Subject(LD(10, target_batch=128), _GREY),
    ("ld_ridge", "small"): Subject(LD(10, training=Training("ridge"), target_batch=128), _GREY),
    ("frepo", "small"): Subject(FRePo(1, network=_SMALL, evaluation_network=_SMALL, target_batch=256), _GREY),
    ("rfad", "small"): Subject(
        RFAD(1, network=Network("ConvNet-D3", width=32, norm="none"), networks=4, target_batch=512), _GREY
    ),
    ("krr_st", "small"): Subject(
        KRRST(
            20,
            teacher=Teacher(_TEACHER, embedding=256, batch=128),
            network=_SMALL,
            pool=Pool(max_updates=300, optimizer=_ADAM, loss="mean"),
            target_batch=256,
            pretraining=_ADAM,
        ),
        _GREY,
    ),
    ("ld", "paper"): Subject(LD(10, training=Training(network=Network("AlexNet", w_std=3**-0.5))), _RGB),
    ("ld_ridge", "paper"): Subject(
        LD(10, training=Training("ridge", Network("AlexNet", w_std=3**-0.5), ridge=Ridge(1.0, "absolute"))), _RGB
    ),
    ("frepo", "paper"): Subject(FRePo(10), _RGB),
    ("rfad", "paper"): Subject(RFAD(10, target_batch=512), _RGB, "512 target images in place of 5120"),
    ("krr_st", "paper"): Subject(
        KRRST(100, target_batch=128), _RGB, "100 images in place of 1000, 128 target images in place of 1024"
    ),
}
"""The sizes that are measured: the small sizes are those of this project's configurations for MNIST and EMNIST."""


def measure(names: Sequence[str], size: Size, updates: int) -> Iterator[Row]:
    """Yield what each method's update costs.

    Args:
        names: keys of `SUBJECTS`.
        size: which of their sizes.
        updates: how many are timed, if `ENOUGH_S` suffices.
    """
    for name in names:
        subject = SUBJECTS[name, size]
        problem = random_problem(subject.image)
        with tempfile.TemporaryDirectory() as folder:
            prepared = _unprepared(subject.method).prepare(problem, Store(Path(folder), show_progress=False))
        state = subject.method.init(problem, prepared)
        seconds, processor = [], []
        began = time.perf_counter()
        for update in range(updates + 2):  # the first two compile
            start = time.perf_counter(), time.process_time()
            state, _ = subject.method.step(problem, prepared, state)
            jax.block_until_ready([leaf for leaf in jax.tree.leaves(tuple(state)) if isinstance(leaf, jax.Array)])
            if update > 1:
                seconds.append(time.perf_counter() - start[0])
                processor.append(time.process_time() - start[1])
            if seconds and time.perf_counter() - began > ENOUGH_S:
                break
        held = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves((tuple(state), prepared)))
        yield Row(name, size, 1 / float(np.median(seconds)), min(processor), held / 2**20, peak_mib(), subject.reduced)


def table(rows: Sequence[Row]) -> str:
    """Return rows as text."""
    lines = [f"{'method':10}{'size':>7}{'updates/s':>12}{'CPU s':>10}{'state MiB':>12}{'peak MiB':>10}"]
    for row in rows:
        peak = "-" if row.peak_mib is None else f"{row.peak_mib:.0f}"
        lines.append(
            f"{row.method:10}{row.size:>7}{row.updates_per_second:12.3g}{row.cpu_seconds:10.3g}"
            f"{row.state_mib:12.3g}{peak:>10}  {row.reduced}".rstrip()
        )
    return "\n".join(lines)


def peak_mib() -> float | None:
    """Return the most memory that the accelerator, or this process on a CPU, has held so far, MiB."""
    if statistics := jax.devices()[0].memory_stats():
        return statistics["peak_bytes_in_use"] / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere


def _unprepared(method: Any) -> Method:
    """Return a method that prepares alike, in one update of each network."""
    changes: dict[str, Any] = {}
    if isinstance(method, FRePo | KRRST):
        changes["pool"] = dataclasses.replace(method.pool, max_updates=1)
    if isinstance(method, KRRST):
        changes["teacher"] = dataclasses.replace(method.teacher, steps=1)
    return dataclasses.replace(method, **changes)


def random_problem(image: tuple[int, int, int]) -> Problem:
    """Return a problem of 6000 random images of ten classes."""
    draw = generator(0, "benchmark")
    pixels = draw.integers(0, 256, (6000, *image)).astype(np.uint8)
    labels = np.arange(len(pixels)) % 10
    transform = fit(Preprocess("standardize"), pixels)
    return Problem(
        pixels,
        transform.apply(pixels),
        labels,
        10,
        ClassIndex(labels, 10),
        transform,
        Augment("none"),
        KernelBlocks(),
        seed=0,
    )
