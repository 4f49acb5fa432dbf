"""The machine that a run is on: what is noted of it and of the libraries, and how memory is asked of it."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

DISTRIBUTION = "kip-distillation"
"""The name that pip installs kip under."""
LIBRARIES = ("jax", "jaxlib", "neural-tangents", "numpy", "scipy", "optax", "flax")


MEMORY_MAPS, MOST_MEMORY_MAPS = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
"""The files in which Linux describes the memory maps of a process, a line each, and says how many it allows."""
CPUINFO = Path("/proc/cpuinfo")
"""The file in which Linux describes its processors."""
NVIDIA = Path("/proc/driver/nvidia/gpus")
"""The folder in which NVIDIA's driver has a folder for each GPU."""

KEPT_BYTES = 1 << 30
"""Arrays up to this size come from memory that the process keeps; twice as much is kept where nothing is in use."""
GIVEN_BACK_BYTES = 1 << 25
"""The largest array that glibc keeps memory for by itself."""
FEW_CORES = 8
"""Up to so many cores, threads share one heap: their own ones hold 64 MiB and are given back when empty. With more
cores, threads that compile would wait for each other."""
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""glibc's names for its settings, `malloc.h`."""
SETTINGS = (
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_ARENA_MAX",
    "GLIBC_TUNABLES",
)
"""Environment variables by which users set glibc themselves."""


def keep_freed_memory(*, keep: bool = True) -> bool:
    """Let the C library keep the memory of arrays that are freed, for the next ones; return whether it does now.

    glibc gives the memory of an array above 32 MiB back at once, and the system clears fresh pages for the next one. An
    update of a network on CPUs has many such arrays; `kip bench memory` measures what it costs. It is a setting of the
    whole process, to be made before there are threads, so that the command line asks for it and importing kip does not.
    Nothing is changed where the C library is another one, or where the environment sets glibc already (`SETTINGS`).

    Args:
        keep: False: give memory back as glibc does by itself.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in SETTINGS):
        return False
    largest = KEPT_BYTES if keep else GIVEN_BACK_BYTES
    settings = [(MMAP_THRESHOLD, largest), (TRIM_THRESHOLD, min(2 * largest, 2**31 - 1))]
    if (os.cpu_count() or 1) <= FEW_CORES:
        settings.append((ARENA_MAX, 1))
    library = ctypes.CDLL(None)
    return all(library.mallopt(name, size) for name, size in settings) and keep


def give_back_memory() -> None:
    """Give the system what all threads have freed; nothing happens where the C library is not glibc.

    glibc keeps what a thread frees for that thread, so that eight threads which each had a large picture for a moment
    hold eight.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def forget_programs_near_limit() -> bool:
    """Let JAX forget what it has compiled, once half of the process's memory maps are used; return whether it did.

    Linux allows a process 65 530 memory maps (`vm.max_map_count`), and each program that XLA compiles for a CPU takes
    three. At the limit XLA ends the process with a segmentation fault, with jaxlib 0.10.2 in the function of the
    compilation cache that writes a program. A run has some hundreds of programs, a process of many runs has more. What
    is forgotten is compiled again, or read from the compilation cache, when it is called. Nothing happens on systems
    other than Linux.
    """
    try:
        allowed = int(MOST_MEMORY_MAPS.read_text())
        with MEMORY_MAPS.open("rb") as maps:
            used = sum(1 for _ in maps)
    except (OSError, ValueError):
        return False
    if used < allowed // 2:
        return False
    import jax

    jax.clear_caches()
    return True


def peak_memory_mib() -> int | None:
    """Return the largest resident memory of this process so far, in MiB; None where the system does not say (Windows).

    Linux counts in KiB, macOS in bytes.
    """
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)


def fresh_pages() -> int:
    """Return how many pages of memory the system has given this process so far, without a disk.

    Raises:
        ImportError: on Windows, which does not say.
    """
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def versions() -> dict[str, str | None]:
    """Return all that equal bits depend on beside the configuration: Python, the libraries, and the device's kind.

    A library that is not installed as a package has None. The first call starts JAX's default backend.
    """
    libraries = {name: _version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), "kip": kip_version(), **libraries, "device": device_kind()}


def device_kind() -> str:
    """Return what JAX computes on, such as `NVIDIA H100 80GB HBM3`; of a CPU, for which JAX says `cpu`, its model."""
    import jax

    device = jax.devices()[0]
    return f"cpu: {_cpu_model()}" if device.platform == "cpu" else device.device_kind


def gpus() -> list[str]:
    """Return the names by which CUDA knows this machine's NVIDIA GPUs, of those that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    with contextlib.suppress(OSError):
        return [str(number) for number in range(len(list(NVIDIA.iterdir())))]
    return []


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_features() -> str:
    """Return the CPU's model and instruction sets, as far as the system says them."""
    return f"{platform.machine()} {_cpu_model()} {_cpuinfo('flags')}"


def _cpu_model() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(name: str) -> str:
    """Return a line of Linux's description of the first core; empty elsewhere."""
    try:
        for line in CPUINFO.read_text().splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    except (OSError, UnicodeDecodeError):
        pass
    return ""


def kip_version() -> str | None:
    """Return the version of kip; None in a source tree that is not installed."""
    return _version(DISTRIBUTION)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
