"""The engine's form on a GPU: measured at a run's first block, and kept for the device and these versions.

`auto` takes the form for GPUs (`pallas`) where it gives the values of the one for XLA (`engine`) and is faster. Which
it is depends on the device and the compiler. Both compute one block and its gradient on the device; what comes out is
kept in the cache folder, so that the next run takes the same form without measuring again.

Results of the two forms differ in their last bits. Whoever begins a step therefore chooses once, and says which form it
is: workers compute in that one. A run's checkpoints name it, and are continued by no other.
"""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from kip import machine
from kip.blocks.plan import Blocks
from kip.config import to_dict
from kip.errors import KipError
from kip.kernels import Architecture, Implementation, Kernel, entry_bytes, pallas
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


def settled(config: Blocks, kernel: Kernel, image_shape: tuple[int, ...]) -> Implementation:
    """Return what computes a kernel: the configuration's implementation, of which `auto` is settled on a GPU.

    Args:
        config: the implementation and the dtype of the computation.
        kernel: the kernel.
        image_shape: (H, W, C).
    """
    if config.implementation != "auto" or platform() != "gpu":
        return config.implementation
    if not isinstance(kernel, Architecture) or not pallas.supports(kernel):
        return "auto"
    return _on_this_gpu(kernel, image_shape) if config.dtype == "float32" else "engine"


def of_run(config: Blocks, kernels: Iterable[Kernel], image_shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the forms that were chosen for a run's kernels, which its checkpoints name; none but on GPUs."""
    forms = {kernel.label: settled(config, kernel, image_shape) for kernel in kernels}
    chosen = {label: form for label, form in forms.items() if form != config.implementation}
    return {"forms": chosen} if chosen else {}


@functools.lru_cache(maxsize=64)
def _on_this_gpu(kernel: Architecture, image_shape: tuple[int, ...]) -> Form:
    return kept(kernel, image_shape, {form: _run_of(kernel, form) for form in FORMS})


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
        LOG.warning("%s is computed by XLA: the form for GPUs fails (%s)", kernel.label, str(error).split("\n", 1)[0])
        return "engine"
    for name, ours, theirs, tolerance in zip(
        ("values", "gradients"), got, expected, (VALUE_TOLERANCE, GRADIENT_TOLERANCE), strict=True
    ):
        difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        if not difference <= tolerance:
            LOG.warning(
                "%s is computed by XLA: the form for GPUs gives %s that differ by %.1e", kernel.label, name, difference
            )
            return "engine"
    form: Form = "pallas" if seconds < least else "engine"
    LOG.info(
        "%s is computed in the form %r: a block of %d x %d and its gradient take %.3g s by pallas, %.3g s by engine",
        *(kernel.label, form, IMAGES, support, seconds, least),
    )
    return form


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
