"""Benchmark of a KIP step's parts: what else than kernel blocks takes time in it, and what validation adds to it.

The step is the method's own, with blocks that note how long they take. Images are random, since a step costs the same
on any. Times are medians over several steps, after two that compile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from kip.bench.methods import random_problem
from kip.blocks import KernelBlocks
from kip.kernels.architecture import kernel_named
from kip.methods.kernel.kip import KIP

SIZES = ((1, 100), (10, 100))
"""The support images per class, and the target images of a step, that are measured."""
CHECKPOINT_EVERY, VALIDATION_IMAGES = 100, 1000
"""Validation takes so many images after so many steps."""


class Step(NamedTuple):
    """The cost of a step of one size."""

    kernel: str
    images_per_class: int
    targets: int
    seconds: dict[str, float]
    """The seconds of each part, by its name. `rest` is the target batch, the KRR and the optimiser; `validation` is a
    step's share of the validation that follows `CHECKPOINT_EVERY` steps."""

    @property
    def shares(self) -> dict[str, float]:
        """The fraction of the whole that each part takes."""
        whole = sum(self.seconds.values())
        return {name: seconds / whole for name, seconds in self.seconds.items()}


class _TimedBlocks:
    """Kernel blocks that note the seconds of their last forward and backward pass."""

    def __init__(self, blocks: KernelBlocks):
        self._blocks = blocks
        self.seconds = {"forward": 0.0, "backward": 0.0}

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return self._timed("forward", lambda: self._blocks.forward(*arguments, **options))

    def backward(self, *arguments: Any) -> Any:
        return self._timed("backward", lambda: self._blocks.backward(*arguments))

    def _timed(self, part: str, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        result = work()  # arrays of NumPy: nothing is left to wait for
        self.seconds[part] = time.perf_counter() - begun
        return result


def measure(kernels: Sequence[str], image: tuple[int, int, int], repeats: int) -> list[Step]:
    """Return the costs of a step under each kernel and of each of `SIZES`.

    Args:
        kernels: names such as `ConvNet`.
        image: (H, W, C).
        repeats: the number of steps that are timed.
    """
    return [_step(name, image, repeats, *size) for name in kernels for size in SIZES]


def _step(name: str, image: tuple[int, int, int], repeats: int, per_class: int, targets: int) -> Step:
    kernel = kernel_named(name)
    method = KIP(per_class, kernels=(kernel,), target_batch=targets)
    problem = random_problem(image)
    blocks: Any = _TimedBlocks(problem.blocks)
    state = method.init(problem, None)
    parts = []
    for _ in range(repeats + 2):
        begun = time.perf_counter()
        state, _ = method.step(problem._replace(blocks=blocks), None, state)
        forward, backward = blocks.seconds["forward"], blocks.seconds["backward"]
        parts.append((forward, backward, time.perf_counter() - begun - forward - backward))
    begun = time.perf_counter()
    problem.blocks.forward(kernel, np.asarray(state.inputs), problem.inputs[:targets])
    validation = (time.perf_counter() - begun) / targets * VALIDATION_IMAGES / CHECKPOINT_EVERY
    forward, backward, rest = (float(part) for part in np.median(parts[2:], axis=0))
    return Step(
        name,
        per_class,
        targets,
        {"blocks, forward": forward, "blocks, vjp": backward, "rest": rest, "validation": validation},
    )


def table(steps: Sequence[Step]) -> str:
    """Return the costs as text."""
    lines = [f"{'kernel':10}{'support':>9}{'targets':>9}   {'part':20}{'ms':>9}{'share':>9}"]
    for step in steps:
        lines += [
            f"{step.kernel:10}{10 * step.images_per_class:9}{step.targets:9}   {part:20}"
            f"{1e3 * step.seconds[part]:9.2f}{100 * share:8.1f}%"
            for part, share in step.shares.items()
        ]
    return "\n".join(
        [*lines, f"validation: a step's share of {VALIDATION_IMAGES} images every {CHECKPOINT_EVERY} steps"]
    )
