"""The engine's form on a GPU: measured at a run's first block, and kept for the device and these versions.

`auto` takes the form for GPUs (`pallas`) where it gives the values of the one for XLA (`engine`) and is faster. Which
it is depends on the device and the compiler. Both compute one block and its gradient on the device; what comes out is
kept in the cache folder, so that the next run takes the same form without measuring again.

Results of the two forms differ in their last bits. Whoever begins a step therefore chooses once, and says which form it
is: workers compute in that one, once each has found that it is right on its own device (`fault`). A run's checkpoints
name it: a resumed run computes in that form, and measures nothing anew.
"""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from kip import machine
from kip.blocks.plan import Blocks
from kip.config import to_dict
from kip.errors import ConfigError, KipError
from kip.kernels import Architecture, Implementation, Kernel, entry_bytes, pallas, tile_memory
from kip.kernels.memory import LANES
from kip.placement import placed, platform
from kip.storage.artefacts import identified
from kip.storage.files import atomic_write, cache_dir

LOG = logging.getLogger(__name__)
Form = Literal["pallas", "engine"]
FORMS: tuple[Form, Form] = ("pallas", "engine")
IMAGES = 32
"""The target images of the block that is timed, and the most support images."""
MEMORY = 1 << 30
"""The bytes that the block may take, as far as its support images can be fewer."""
REPEATS = 3
"""The number of times that it is timed; the least time counts."""
VALUE_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4
"""The largest differences between the forms, relative to the largest value, at which both count as right."""

Run = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[Any, Any]]
"""Returns a block and its gradient for the second images, from both sides' images and the block's cotangent."""


class Room(NamedTuple):
    """The memory of a tile, as `kip.blocks.plan` wants it.

    Attributes:
        entry_bytes: an entry's temporary memory, which stands for its work.
        memory_bytes: as many times that as the tile may have entries.
        lanes: the number whose multiples a tile's rows are filled up to.
    """

    entry_bytes: int
    memory_bytes: int
    lanes: int


def room_of(
    config: Blocks, kernel: Kernel, image_shape: tuple[int, ...], before: Mapping[str, Implementation] | None = None
) -> Room:
    """Return the room for a tile, in the form that computes the kernel.

    Args:
        config: the memory, the implementation and the dtype.
        kernel: the kernel.
        image_shape: (H, W, C).
        before: as in `settled`.
    """
    itemsize = np.dtype(config.dtype).itemsize
    given: Any = (kernel, image_shape, itemsize, settled(config, kernel, image_shape, before))
    per_entry, memory = entry_bytes(*given), tile_memory(*given)
    return Room(per_entry, memory.entries(config.memory_mib << 20) * per_entry, memory.lanes)


def settled(
    config: Blocks, kernel: Kernel, image_shape: tuple[int, ...], before: Mapping[str, Implementation] | None = None
) -> Implementation:
    """Return what computes a kernel: the configuration's implementation, of which `auto` is settled on a GPU.

    `auto` takes the form for XLA where the smallest tile of the other exceeds the memory.

    Args:
        config: the implementation, the dtype of the computation, and its memory.
        kernel: the kernel.
        image_shape: (H, W, C).
        before: the forms that were chosen when the run began, by the kernels' labels; None: none were.

    Raises:
        ConfigError: if the configuration demands the form for GPUs, whose smallest tile exceeds its memory.
    """
    is_possible = isinstance(kernel, Architecture) and pallas.supports(kernel) and config.dtype == "float32"
    if config.implementation == "pallas" and is_possible:
        least = _least_mib(kernel, image_shape)
        if least > config.memory_mib:
            raise ConfigError(
                f"blocks.memory_mib for {kernel.label} by the form for GPUs",
                got=config.memory_mib,
                expected=f"at least {least}, for a tile of {LANES} pairs",
                remedy=f"Set blocks.memory_mib to {least}, or blocks.implementation to 'engine'.",
            )
    if config.implementation != "auto" or platform() != "gpu":
        return config.implementation
    if not isinstance(kernel, Architecture) or not pallas.supports(kernel):
        return "auto"
    if before and kernel.label in before:
        return before[kernel.label]
    if not is_possible or not _fits(kernel, image_shape, config.memory_mib):
        return "engine"
    return _on_this_gpu(kernel, image_shape)


def of_run(
    config: Blocks,
    kernels: Iterable[Kernel],
    image_shape: tuple[int, ...],
    before: Mapping[str, Implementation] | None = None,
) -> dict[str, Any]:
    """Return the forms that were chosen for a run's kernels, which its checkpoints name; none but on GPUs.

    Args:
        config: the run's.
        kernels: the run's.
        image_shape: (H, W, C).
        before: the forms that its checkpoints name; None: it has none yet.

    Raises:
        ConfigError: if a form that the checkpoints name is not right on this device.
    """
    forms: dict[str, tuple[Kernel, Implementation]] = {
        kernel.label: (kernel, settled(config, kernel, image_shape, before)) for kernel in kernels
    }
    chosen = {label: form for label, (_, form) in forms.items() if form != config.implementation}
    for label in (before or {}).keys() & chosen.keys():
        form = forms[label][1]
        if why := fault(forms[label][0], image_shape, form):
            raise ConfigError(
                f"the run's checkpoints were computed in the form {form!r} of {label}, which {why} on this device",
                remedy="Resume the run on a device like the first one, or begin a new one in another folder.",
            )
    return {"forms": chosen} if chosen else {}


def fault(kernel: Kernel, image_shape: tuple[int, ...], form: Implementation) -> str:
    """Say what is wrong with a form on this device, as the end of a sentence; "" if it agrees with the form for XLA.

    Workers ask it of the form that they are told, and resumed runs of the one that they began with. Only the form for
    GPUs is in question; it is computed once for a kernel and a process.
    """
    if form != "pallas" or not isinstance(kernel, Architecture):
        return ""
    if not pallas.supports(kernel):
        return "computes convolutional networks alone"
    if platform() != "gpu":
        return f"needs a GPU, and this is a {platform().upper()}"
    return _fault_on_this_gpu(kernel, image_shape)


@functools.lru_cache(maxsize=64)
def _fault_on_this_gpu(kernel: Architecture, image_shape: tuple[int, ...]) -> str:
    return compared(kernel, image_shape, {form: _run_of(kernel, form) for form in FORMS}).fault


@functools.lru_cache(maxsize=64)
def _on_this_gpu(kernel: Architecture, image_shape: tuple[int, ...]) -> Form:
    return kept(kernel, image_shape, {form: _run_of(kernel, form) for form in FORMS})


@functools.lru_cache(maxsize=64)
def _fits(kernel: Architecture, image_shape: tuple[int, ...], memory_mib: int) -> bool:
    """Return whether the smallest tile of the form for GPUs fits the memory, and report if it does not."""
    least = _least_mib(kernel, image_shape)
    if least > memory_mib:
        LOG.info(
            "%s is computed by XLA: the form for GPUs needs blocks.memory_mib of %d, and has %d",
            *(kernel.label, least, memory_mib),
        )
    return least <= memory_mib


def _least_mib(kernel: Kernel, image_shape: tuple[int, ...]) -> int:
    height, width, channels = image_shape
    return -(-tile_memory(kernel, (height, width, channels), implementation="pallas").of(1, 1) // (1 << 20))


def kept(
    kernel: Architecture,
    image_shape: tuple[int, ...],
    runs: Mapping[Form, Run],
    now: Callable[[], float] = time.perf_counter,
) -> Form:
    """Return the form that was chosen before on this device and with these versions, or choose and keep it.

    Args:
        kernel: the kernel.
        image_shape: (H, W, C).
        runs: what computes a block, by form.
        now: the clock, in seconds.
    """
    identity = {"kernel": to_dict(kernel), "image": list(image_shape), "versions": machine.versions()}
    path = cache_dir() / "forms" / f"{identified(identity)}.json"
    if (form := _read(path)) is not None:
        LOG.info("%s is computed in the form %r, as measured before on this device", kernel.label, form)
        return form
    form = chosen(kernel, image_shape, runs, now)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"form": form, **identity}, indent=2) + "\n"
        atomic_write(path, lambda file: file.write(text.encode()))
    except OSError as error:
        LOG.warning("%s cannot be written (%s): the form is measured anew each time", path, error.strerror or error)
    return form


def chosen(
    kernel: Architecture,
    image_shape: tuple[int, ...],
    runs: Mapping[Form, Run],
    now: Callable[[], float] = time.perf_counter,
) -> Form:
    """Compute a block and its gradient in both forms, compare them, and return the faster one that is right.

    The form for XLA is the reference: the other is taken only if it runs, agrees, and is faster.
    """
    result = compared(kernel, image_shape, runs, now)
    if result.fault:
        LOG.warning("%s is computed by XLA: the form for GPUs %s", kernel.label, result.fault)
        return "engine"
    form: Form = "pallas" if result.pallas < result.engine else "engine"
    LOG.info(
        "%s is computed in the form %r: a block of %d x %d and its gradient take %.3g s by pallas, %.3g s by engine",
        *(kernel.label, form, IMAGES, result.support, result.pallas, result.engine),
    )
    return form


class Comparison(NamedTuple):
    """The two forms, side by side.

    Attributes:
        fault: what is wrong with the form for GPUs; "" if it runs and agrees.
        support: the support images of the block.
        pallas: seconds that the block and its gradient take by the form for GPUs; 0 with a fault.
        engine: seconds by the form for XLA.
    """

    fault: str
    support: int
    pallas: float
    engine: float


def compared(
    kernel: Architecture,
    image_shape: tuple[int, ...],
    runs: Mapping[Form, Run],
    now: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Compute a block and its gradient in both forms, and compare values, gradients and times."""
    rng = np.random.default_rng(0)
    height, width, channels = image_shape
    per_entry = entry_bytes(kernel, (height, width, channels), implementation="pallas")
    support = min(IMAGES, max(1, MEMORY // (IMAGES * per_entry)))
    x, z = (rng.standard_normal((count, *image_shape)).astype(np.float32) for count in (IMAGES, support))
    bar = rng.standard_normal((IMAGES, support)).astype(np.float32)
    expected, least = _timed(runs["engine"], (x, z, bar), now)
    try:
        got, seconds = _timed(runs["pallas"], (x, z, bar), now)
    except KipError:
        raise
    except Exception as error:
        # A compiler or driver that cannot do it fails in ways of its own; the other form computes all the same.
        return Comparison(f"fails ({str(error).splitlines()[0] if str(error) else error!r})", support, 0, least)
    for name, ours, theirs, tolerance in zip(
        ("values", "gradients"), got, expected, (VALUE_TOLERANCE, GRADIENT_TOLERANCE), strict=True
    ):
        difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        if not difference <= tolerance:
            return Comparison(f"gives {name} that differ by {difference:.1e}", support, 0, least)
    return Comparison("", support, seconds, least)


def _run_of(kernel: Architecture, form: Form) -> Run:
    from kip.blocks.tile import tile_functions

    functions = tile_functions(kernel, form)
    forward, pull = (jax.jit(placed(function, "gpu")) for function in (functions.forward, functions.pull_columns))
    return lambda x, z, bar: (forward(x, z), pull(x, z, bar))


def _timed(
    run: Run, arguments: tuple[np.ndarray, np.ndarray, np.ndarray], now: Callable[[], float]
) -> tuple[list[np.ndarray], float]:
    """Return what a run gives, and the least time that it takes once it is compiled."""
    results = [np.asarray(part) for part in run(*arguments)]
    times = []
    for _ in range(REPEATS):
        began = now()
        for part in run(*arguments):
            np.asarray(part)
        times.append(now() - began)
    return results, min(times)


def _read(path: Path) -> Form | None:
    """Return the form of a file in the cache; None where there is none that can be read."""
    try:
        form = json.loads(path.read_text())["form"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return form if form in FORMS else None
