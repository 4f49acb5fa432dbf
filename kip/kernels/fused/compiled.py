"""The compilation of the fused form's functions: by Numba, without the GIL, and kept on disk.

What is kept lies in a folder whose name holds a hash of this package's sources. Numba by itself looks at the file of
the function that it loads, not at those of what it calls, and after an upgrade would load code that is out of date.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from llvmlite.binding import get_host_cpu_name

from kip.errors import ConfigError, OutputError
from kip.storage.files import cache_dir, check_private

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
"""Numba's options. There is no fast-math: vectors are written as such, sums keep their order, and NaN stays NaN."""

INNER: dict[str, Any] = {**OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Numba's options for functions that compiled code alone calls."""

log = logging.getLogger(__name__)

if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise ConfigError(
        "$NUMBA_DISABLE_JIT switches off the compiler of the kernels' form for CPUs",
        got=os.environ.get("NUMBA_DISABLE_JIT", "Numba's setting"),
        expected="0, or unset",
        remedy="Unset it, or take the form without Numba: --blocks.implementation engine.",
    )


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function with whatever first calls it."""
    return numba.njit(**INNER)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a function into each of its callers."""
    return numba.njit(inline="always", **OPTIONS)(function)


def entry(function: Callable[..., Any]) -> Callable[..., None]:
    """Return a function that Python calls, compiled at its first call with arguments of a kind, and kept on disk.

    Its own first argument names the kind: a word that all arguments of the same types share, and no others. The
    function and all that it calls must be of this package. Where kip's cache folder cannot be written, the code is
    compiled in each process. The log says when something is compiled, for that takes seconds.
    """
    try:
        folder = _folder(cache_dir())
    except OutputError as error:  # there is no cache folder
        log.warning("compiled kernels are not kept: %s", error)
        folder = None
    before = numba.config.CACHE_DIR  # type: ignore[attr-defined]
    try:
        # Numba reads this setting when a function is decorated. It belongs to the whole process and is put back.
        numba.config.CACHE_DIR = str(folder or before)  # type: ignore[attr-defined]
        run = numba.njit(cache=folder is not None, **OPTIONS)(function)
    finally:
        numba.config.CACHE_DIR = before  # type: ignore[attr-defined]
    lock, points = threading.Lock(), dict[str, Callable[..., None]]()

    def call(kind: str, *arguments: Any) -> None:
        if kind not in points:
            with lock:
                if kind not in points:
                    _first_call(run, f"{function.__name__} {kind}", folder, arguments)
                    # Called so, the code does without the types of its arguments, which cost more than small blocks.
                    points[kind] = run.overloads[tuple(map(numba.typeof, arguments))].entry_point
                    return
        points[kind](*arguments)

    return call


def _first_call(run: Any, name: str, folder: Path | None, arguments: tuple[Any, ...]) -> None:
    """Call a function for the first time with arguments of a kind, and say so if it has to be compiled."""
    mark = folder and folder / name
    if mark is not None and mark.exists():
        run(*arguments)
        return
    log.info("compiling the kernel's %s for this machine%s", name, "" if folder is None else ", once")
    start = time.perf_counter()
    run(*arguments)
    log.info("compiled and run in %.1f s", time.perf_counter() - start)
    if mark is not None:
        with contextlib.suppress(OSError):
            mark.touch()


@functools.cache
def _folder(parent: Path) -> Path | None:
    """Return the folder for the code of these sources on this machine, made and found writable, or None."""
    digest = hashlib.sha256(f"{numba.__version__} {get_host_cpu_name()} {sys.version}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    folder = parent / f"numba-{digest.hexdigest()[:16]}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        check_private(folder)  # Numba runs what lies there
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        log.warning("compiled kernels are not kept in %s: %s", folder, error.strerror or error)
        return None
    return folder
