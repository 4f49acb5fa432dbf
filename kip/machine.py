"""What a run notes about the machine and the libraries that it ran on."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path

LIBRARIES = ("kip", "jax", "jaxlib", "neural-tangents", "numpy", "scipy", "optax", "flax")


CPUINFO = Path("/proc/cpuinfo")
"""Where Linux describes its processors."""


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


def versions() -> dict[str, str | None]:
    """Return all that equal bits depend on beside the configuration: Python, the libraries, and the device's kind.

    A library that is not installed as a package has None. The first call starts JAX's default backend.
    """
    libraries = {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}}
    return {**libraries, "device": device_kind()}


def device_kind() -> str:
    """Return what JAX computes on, such as `NVIDIA H100 80GB HBM3`; of a CPU, for which JAX says `cpu`, its model."""
    import jax

    device = jax.devices()[0]
    return f"cpu: {_cpu_model()}" if device.platform == "cpu" else device.device_kind


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


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
