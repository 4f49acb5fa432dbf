"""Failures of the machine, of which libraries tell by exceptions of their own, as errors of kip's."""

from __future__ import annotations

import errno
import os
import sys

from kip.errors import ConfigError, KipError, OutOfMemoryError, OutputError

MEMORY_WORDS = (
    "RESOURCE_EXHAUSTED",
    "Out of memory",
    "out of memory",
    "can't start new thread",
    "cannot allocate memory",
    "Cannot allocate memory",
    "failed to map segment",
    "bad_alloc",
)
"""Words of libraries' messages where memory is missing."""
PLATFORMS = "JAX_PLATFORMS"


def in_our_voice(error: BaseException) -> KipError | None:
    """Return the error of kip's that says what is the matter and what to do; None where there is none.

    Args:
        error: what a library raised.
    """
    return _of_memory(error) or _of_path(error) or _of_platform(error)


def _of_memory(error: BaseException | None) -> KipError | None:
    seen = 0
    while error is not None and seen < 10:
        text = str(error)
        is_memory = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
        if is_memory or any(word in text for word in MEMORY_WORDS):
            return OutOfMemoryError(
                "the memory is not enough",
                got=(text.strip().splitlines() or [type(error).__name__])[0][:200],
                remedy=f"Take a smaller set, batch or network, or more memory{_limit()}. The same command goes on from "
                "the last checkpoint.",
            )
        error, seen = error.__cause__ or error.__context__, seen + 1
    return None


def _of_path(error: BaseException) -> KipError | None:
    """Return the error of a file or folder that the system refuses: its rights, its name's length, a broken disk."""
    if not isinstance(error, OSError) or error.errno is None or error.filename is None:
        return None
    return OutputError(
        f"cannot use {os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename}",
        got=error.strerror or repr(error),
        remedy="Check that the path is right and that you may read and write there, or name another one.",
    )


def _limit() -> str:
    """Say what the process may take, where it has a limit (`ulimit -v`)."""
    try:
        import resource
    except ImportError:  # Windows
        return ""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return "" if soft == resource.RLIM_INFINITY else f": `ulimit -v` allows this process {soft / 2**30:.1f} GiB"


def _of_platform(error: BaseException) -> KipError | None:
    """Return the error of a JAX that does not start at all; some versions raise an assertion without a word."""
    named = os.environ.get(PLATFORMS)
    if not named or "jax" not in sys.modules:
        return None
    import jax

    try:
        jax.devices()
    except Exception as broken:
        reason = str(broken) or str(error)
        return ConfigError(
            f"JAX cannot compute on ${PLATFORMS}={named}",
            got=reason.strip().splitlines()[0][:200] if reason else None,
            expected="platforms of this machine, such as cpu",
            remedy="Unset it, or install JAX's plugin for the platform, such as `pip install 'jax[cuda12]'`.",
        )
    return None
