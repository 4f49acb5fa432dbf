"""Refuse runs that exceed the memory, and report long running times, before a run begins.

Time is forecast where an entry of a kernel can be timed at once: networks with pooling under the form for CPUs, which
compiles in seconds for any size of block.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import numpy as np

from kip import data
from kip.errors import DataError
from kip.experiment import Experiment
from kip.kernels import Architecture, fused
from kip.methods.contract import Needs
from kip.methods.problem import Problem
from kip.placement import platform
from kip.progress import readable, say
from kip.storage.images import Lazy
from kip.storage.npz import memory_bytes

TELLING = 600.0
"""Seconds of a whole run above which its time is told."""
SUPPORT, TARGET = 4, 64
"""Images of the block that is timed, of which K_ss is a small part, as in a run; targets fill the form's vectors."""
COPIES = 5
"""Bytes of a pixel: one as it is, and four as the float32 that methods see."""
WHOLE = 4
"""Bytes of a pixel of a target batch of the whole set: float32."""
OF_CLASS = 12
"""Bytes of a pixel of the images that a selection compares: float32, and float64."""


class Forecast(NamedTuple):
    """The time of a run's steps.

    Attributes:
        kernel: the kernel's label.
        entry_seconds: of one entry, forward and, where the method differentiates, vjp.
        entries: of a step.
        steps: that are left.
    """

    kernel: str
    entry_seconds: float
    entries: int
    steps: int

    @property
    def seconds(self) -> float:
        """The time of all steps."""
        return self.entry_seconds * self.entries * self.steps

    def __str__(self) -> str:
        step = self.entry_seconds * self.entries
        return (
            f"{self.kernel} takes about {1e6 * self.entry_seconds:.0f} microseconds per entry on this machine; a step "
            f"has {self.entries} entries and takes about {readable(step)}, the {self.steps} steps that are left about "
            f"{readable(self.seconds)}"
        )


def check_memory(dataset: data.Dataset, needs: Needs = Needs()) -> None:  # noqa: B008 (frozen)
    """Refuse a data set whose images do not fit into this machine's memory as a method sees them.

    Images that are read when they are asked for count only as far as the method takes many at once.

    Args:
        dataset: the data set.
        needs: of the method.

    Raises:
        DataError: saying how much it takes and how much there is.
    """
    splits = [split.images for split in (dataset.train, dataset.validation, dataset.test)]
    _check_at_once(dataset, needs)
    pixels = sum(images.size for images in splits if not isinstance(images, Lazy))
    if (wanted := COPIES * pixels) > memory_bytes():
        _, height, width, _ = dataset.train.images.shape
        raise DataError(
            f"the images of {dataset.name!r} do not fit into memory",
            got=f"{pixels} values, which take {wanted / 2**30:.1f} GiB as bytes and as float32",
            expected=f"at most the machine's {memory_bytes() / 2**30:.1f} GiB",
            remedy=f"Make the images smaller than {height}x{width}, with --data.shrink or --data.side, or take fewer.",
        )


def _check_at_once(dataset: data.Dataset, needs: Needs) -> None:
    """Refuse a method that takes more train images at once than fit into memory.

    Raises:
        DataError: naming what it takes, and how it would take less.
    """
    values = math.prod(dataset.train.images.shape[1:])
    largest = int(np.bincount(dataset.train.labels, minlength=dataset.num_classes).max())
    of_class = int(min(needs.class_images, largest))
    taken = {
        f"all {len(dataset.train.labels)} train images": (
            WHOLE * values * len(dataset.train.labels) * needs.whole_set,
            "Give the method a target batch (method.target_batch), smaller than the set",
        ),
        f"{of_class} images of a class": (
            OF_CLASS * values * of_class,
            "Choose from some images of each class (method.rule.candidates), or in the space of a network's features",
        ),
    }
    for what, (wanted, remedy) in taken.items():
        if wanted > memory_bytes():
            raise DataError(
                f"the method takes {what} of {dataset.name!r} at once, which do not fit into memory",
                got=f"{wanted / 2**30:.1f} GiB",
                expected=f"at most the machine's {memory_bytes() / 2**30:.1f} GiB",
                remedy=f"{remedy}, or make the images smaller with --data.shrink or --data.side.",
            )


def forecast(experiment: Experiment, problem: Problem, done: int) -> Forecast | None:
    """Return the time of a run's steps, from an entry that is timed; None where that cannot be done at once.

    Args:
        experiment: the run's.
        problem: its train images, and the blocks of this process.
        done: steps that were taken before.
    """
    needs = experiment.method.needs
    fast = experiment.blocks.implementation in ("auto", "numba") and platform() == "cpu"
    timed = [kernel for kernel in needs.kernels if isinstance(kernel, Architecture) and fused.supports(kernel)]
    if not (fast and timed) or needs.images_per_class is None or len(problem.inputs) < SUPPORT + TARGET:
        return None
    support, target = problem.inputs[:SUPPORT], problem.inputs[SUPPORT : SUPPORT + TARGET]
    took = []
    for kernel in timed:
        seconds = 0.0
        for _ in range(2):  # the first compiles
            began = time.monotonic()
            k_ss, k_ts = problem.blocks.forward(kernel, support, target)
            if needs.differentiates:
                problem.blocks.backward(np.zeros_like(k_ss), np.zeros_like(k_ts))
            seconds = time.monotonic() - began
        took.append(seconds / (SUPPORT * TARGET + SUPPORT * (SUPPORT + 1) / 2))
    images = needs.images_per_class * problem.num_classes
    targets = needs.target_batch or len(problem.inputs)
    entries = images * targets + images * (images + 1) // 2
    return Forecast(timed[0].label, float(np.mean(took)), entries, max(0, experiment.method.steps - done))


def tell(found: Forecast | None) -> None:
    """Say on stderr what a long run will take."""
    if found is None or found.seconds < TELLING:
        return
    advice = ""
    if found.seconds > 86400:
        advice = ". A smaller method.target_batch, data.shrink or a GPU makes it shorter"
    say(f"kip: {found}{advice}. It can be stopped and goes on where it was.")


def tell_costs(step: float, steps: int, every: int, judging: float, end: float) -> None:
    """Say on stderr what the rest of a long run will take, and what of it is judging.

    Args:
        step: seconds of a step.
        steps: that are left.
        every: steps between two checkpoints.
        judging: seconds of the judging of a checkpoint.
        end: seconds of the judging at the end; 0 where it is not known.
    """
    whole = step * steps + judging * (steps // every) + end
    if whole < TELLING:
        return
    at_end = f", and about {readable(end)} of judging at the end" if end >= 1 else ""
    say(
        f"kip: {every} steps take about {readable(step * every)} and the judging of their checkpoint about "
        f"{readable(judging)}; the {steps} steps that are left take about {readable(whole)} in all{at_end}"
    )
