"""Benchmark of the matching methods: their steps beside a plain PyTorch loop, and the memory of an unrolled student.

The loops are written from the papers, as their authors' code does it: a fresh network a step, one class after the
other, second derivatives by autograd. Both take turns in one process, on the same random images. PyTorch is an extra:
`pip install torch`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kip.errors import MissingExtraError
from kip.methods.contract import Method
from kip.methods.matching.dc import DC
from kip.methods.matching.dm import DM
from kip.methods.problem import Problem
from kip.networks import Model, Network
from kip.storage.artefacts import Store
from kip.storage.files import atomic_write
from kip.training.unrolled import Draw, LearnedSet, Student, unroll

STUDENT_STEPS = (5, 10, 20, 40, 80)


class Turn(NamedTuple):
    """The cost of a step here and there.

    Attributes:
        method: its name.
        ours_s: seconds of a step, the median.
        torch_s: the same of the PyTorch loop.
    """

    method: str
    ours_s: float
    torch_s: float

    @property
    def ratio(self) -> float:
        """PyTorch's time through kip's."""
        return self.torch_s / self.ours_s


def against_torch(
    names: Sequence[str], problem: Problem, *, width: int, real_batch: int, repeats: int
) -> Iterator[Turn]:
    """Yield what a step of DC and DM costs here and in PyTorch, with one image a class and no augmentation.

    Args:
        names: `dc`, `dm`.
        problem: the images.
        width: of ConvNet-D3.
        real_batch: natural images of each class in a step.
        repeats: steps of each that are timed, in turns.

    Raises:
        MissingExtraError: if PyTorch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtraError("PyTorch is not installed", remedy="Run `pip install torch`.") from None
    for name in names:
        ours, theirs = _ours(name, problem, width, real_batch), _Torch(torch, name, problem, width, real_batch).step
        ours()  # which compiles
        theirs()
        seconds = np.array([[_seconds(ours), _seconds(theirs)] for _ in range(repeats)])
        yield Turn(name, *np.median(seconds, axis=0).tolist())


def table(turns: Sequence[Turn]) -> str:
    """Return the comparison as text."""
    lines = [f"{'method':8}{'kip, s':>10}{'PyTorch, s':>12}{'ratio':>8}"]
    return "\n".join(
        lines + [f"{turn.method:8}{turn.ours_s:10.3g}{turn.torch_s:12.3g}{turn.ratio:8.2f}" for turn in turns]
    )


def memory_of_unrolling(width: int = 32, side: int = 32) -> list[tuple[int, float, float]]:
    """Return (N, MiB that an unrolled student of N steps keeps, MiB of N + 1 sets of its parameters).

    Args:
        width: of ConvNet-D3.
        side: pixels.
    """
    model = Model(Network("ConvNet-D3", width=width), 10)
    params = model.init(jax.random.key(0), (side, side, 3))["params"]
    learned = LearnedSet(jnp.zeros((10, side, side, 3)), jnp.eye(10), jnp.array([0.01]))
    one = sum(leaf.nbytes for leaf in jax.tree.leaves(params)) / 2**20
    points = []
    for steps in STUDENT_STEPS:
        draws = [Draw(np.arange(10), jax.random.key(step)) for step in range(steps)]
        before = _live_mib()
        path = jax.block_until_ready(unroll(Student(model, "soft_xent"), params, learned, draws))
        points.append((steps, _live_mib() - before + one, one * (steps + 1)))
        del path
    return points


def draw_memory(points: Sequence[tuple[int, float, float]], path: Path) -> None:
    """Draw what `memory_of_unrolling` returned.

    Raises:
        OutputError: if the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 3), dpi=150, layout="constrained")
    ax = figure.subplots()
    steps = [step for step, _, _ in points]
    ax.plot(steps, [own for _, _, own in points], "-", color="#bbbbbb", linewidth=5, label="N + 1 sets of parameters")
    ax.plot(steps, [kept for _, kept, _ in points], "o-", color="#2f6db3", label="kept by the student")
    ax.set(xlabel="student steps N", ylabel="MiB", xlim=(0, None), ylim=(0, None))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    atomic_write(path, lambda file: figure.savefig(file, format="png"))


def _live_mib() -> float:
    return sum(array.nbytes for array in jax.live_arrays()) / 2**20


def _seconds(step: Callable[[], Any]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def _ours(name: str, problem: Problem, width: int, real_batch: int) -> Callable[[], None]:
    network = Network("ConvNet-D3", width=width, w_std=3**-0.5)
    kind: Any = {"dc": DC, "dm": DM}[name]
    method: Method = kind(1, network=network, real_batch=real_batch)
    if isinstance(method, DM):
        method = dataclasses.replace(method, siamese=False)
    prepared = method.prepare(problem, Store())
    states = [method.init(problem, prepared)]

    def step() -> None:
        states[0], _ = method.step(problem, prepared, states[0])
        jax.block_until_ready(states[0].inputs)

    return step


class _Torch:
    """A step of DC or DM as a PyTorch loop."""

    def __init__(self, torch: Any, name: str, problem: Problem, width: int, real_batch: int):
        self._torch, self._problem, self._batch, self._width = torch, problem, real_batch, width
        self.step = {"dc": self._dc, "dm": self._dm}[name]
        first = [np.flatnonzero(problem.labels == label)[:1] for label in range(problem.num_classes)]
        self._learned = self._tensor(problem.inputs[np.concatenate(first)]).requires_grad_(True)
        rate = {"dc": 0.1, "dm": 1.0}[name]
        self._optimizer = torch.optim.SGD([self._learned], lr=rate, momentum=0.5)
        self._steps = 0

    def _tensor(self, images: np.ndarray) -> Any:
        return self._torch.tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))

    def _network(self) -> tuple[Any, Any]:
        nn, width = self._torch.nn, self._width
        side, channels = self._problem.inputs.shape[2:]
        layers: list[Any] = []
        for _ in range(3):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(width, width), nn.ReLU(), nn.AvgPool2d(2)]
            channels, side = width, side // 2
        return nn.Sequential(*layers, nn.Flatten()), nn.Linear(width * side * side, self._problem.num_classes)

    def _real(self, label: int) -> Any:
        return self._tensor(self._problem.class_batch(label, self._batch, purpose="real batch", step=self._steps))

    def _update(self, loss: Any) -> None:
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._steps += 1

    def _dc(self) -> None:
        torch = self._torch
        body, head = self._network()
        parameters = [*body.parameters(), *head.parameters()]

        def gradient(images: Any, label: int, **options: Any) -> Any:
            classes = torch.full((len(images),), label)
            return torch.autograd.grad(
                torch.nn.functional.cross_entropy(head(body(images)), classes), parameters, **options
            )

        loss = torch.zeros(())
        for label in range(self._problem.num_classes):
            wanted = gradient(self._real(label), label)
            ours = gradient(self._learned[label : label + 1], label, create_graph=True)
            for a, b in zip(wanted, ours):
                if a.ndim > 1:
                    a, b = a.flatten(1), b.flatten(1)
                    loss = loss + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
        self._update(loss)

    def _dm(self) -> None:
        body, _ = self._network()
        loss = self._torch.zeros(())
        for label in range(self._problem.num_classes):
            with self._torch.no_grad():
                wanted = body(self._real(label)).mean(0)
            loss = loss + ((wanted - body(self._learned[label : label + 1]).mean(0)) ** 2).sum()
        self._update(loss)
