"""`kip bench devices`: when each device of this host computes, in the kernel blocks of one step of KIP.

The step's blocks go through the executor of every run on one host. What a device does is noted from outside: when each
of its tasks began and ended. On a machine without accelerators JAX simulates several devices on the CPU. They share its
cores, so that each is slower, but none of them knows; whether one waits for another is seen as on real ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kip.blocks import Blocks, KernelBlocks, LocalExecutor
from kip.blocks import task as tasking
from kip.blocks.tile import Images
from kip.kernels.architecture import kernel_named
from kip.pictures.canvas import BLUE, DPI, INK, ORANGE, drawing, save


class Span(NamedTuple):
    """The time that a device took for a task, in seconds since the first task began."""

    device: int
    part: str
    """`forward` or `vjp`."""
    began: float
    ended: float


class Busy(NamedTuple):
    """The work of the devices in a step."""

    kernel: str
    support: int
    targets: int
    devices: int
    """The number of devices, with those that had no task."""
    spans: Sequence[Span]

    @property
    def shares(self) -> dict[int, dict[str, float]]:
        """The fraction of the time from a part's first task to its last in which a device computed, for each device."""
        found: dict[int, dict[str, float]] = {}
        for part in ("forward", "vjp"):
            spans = [span for span in self.spans if span.part == part]
            whole = max(span.ended for span in spans) - min(span.began for span in spans)
            for device in range(self.devices):
                busy = sum(span.ended - span.began for span in spans if span.device == device)
                found.setdefault(device, {})[part] = busy / whole
        return found


class _NotingExecutor(LocalExecutor):
    """Notes when each of its devices computed."""

    def __init__(self, devices: Sequence[Any]):
        super().__init__(devices)
        self.spans: list[Span] = []
        self._places = {device: place for place, device in enumerate(devices)}

    def _in_order(self, run: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        part = "forward" if run is tasking.forward else "vjp"

        def noted(images: Images, *task: Any) -> Any:
            on_device: Any = images.support
            began = time.perf_counter()
            result = run(images, *task)  # arrays of NumPy: nothing is left to wait for
            (device,) = on_device.devices()
            self.spans.append(Span(self._places[device], part, began, time.perf_counter()))
            return result

        return super()._in_order(noted, tasks)


def measure(
    kernel: str, image: tuple[int, int, int], support: int, targets: int, devices: Sequence[Any] | None = None
) -> Busy:
    """Return what each device did in one step, after one that compiles.

    Args:
        kernel: a name such as `ConvNet3`.
        image: (H, W, C).
        support: the number of support images.
        targets: the number of target images.
        devices: JAX devices; None: all of this process.
    """
    import jax

    rng = np.random.default_rng(0)
    support_images, target_images = (
        rng.standard_normal((count, *image)).astype(np.float32) for count in (support, targets)
    )
    executor = _NotingExecutor(list(jax.local_devices() if devices is None else devices))
    with KernelBlocks(Blocks(), executor) as blocks:
        for _ in range(2):
            executor.spans.clear()
            matrices = blocks.forward(kernel_named(kernel), support_images, target_images)
            blocks.backward(np.ones_like(matrices.k_ss), np.ones_like(matrices.k_ts))
    first = min(span.began for span in executor.spans)
    spans = [span._replace(began=span.began - first, ended=span.ended - first) for span in executor.spans]
    return Busy(kernel, support, targets, executor.places, spans)


def table(busy: Busy) -> str:
    """Return the shares as text."""
    lines = [f"{'device':>8}{'tasks':>8}{'forward':>10}{'vjp':>8}"]
    for device, shares in busy.shares.items():
        count = sum(span.device == device for span in busy.spans)
        lines.append(f"{device:8}{count:8}{shares['forward']:10.0%}{shares['vjp']:8.0%}")
    return "\n".join([*lines, "the share of the time from the first task to the last in which a device computes"])


def draw(busy: Busy, path: Path) -> None:
    """Draw a row for each device, with a bar for each of its tasks.

    Raises:
        OutputError: if the file cannot be written.
    """
    title = f"{busy.kernel}, {busy.support} support and {busy.targets} target images"
    with drawing(title):
        from matplotlib.figure import Figure

        devices = range(busy.devices)
        figure = Figure(figsize=(10, 1.4 + 0.45 * len(devices)), dpi=DPI, facecolor="white", layout="constrained")
        ax = figure.subplots()
        for part, colour in (("forward", BLUE), ("vjp", ORANGE)):
            for device in devices:
                bars = [
                    (span.began, span.ended - span.began)
                    for span in busy.spans
                    if (span.device, span.part) == (device, part)
                ]
                label = None if device else part
                ax.broken_barh(bars, (device - 0.35, 0.7), facecolor=colour, edgecolor="white", lw=0.5, label=label)
        ax.set_yticks(devices, [f"device {device}" for device in devices])
        ax.invert_yaxis()
        ax.set_xlabel("seconds")
        ax.set_title(title, size=12, weight="bold", color=INK, loc="left")
        ax.legend(fontsize=8, frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
        save(figure, path)
