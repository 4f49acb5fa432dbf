"""`kip bench compiled`: what compilers say of the kernel engine's programs for a GPU that is not here.

XLA compiles for a GPU from its description, where its plugin is installed (`jax-cuda12-plugin`, `jax-cuda12-pjrt`,
`nvidia-cuda-nvcc-cu12`). The program then tells how many bytes it moves, how many kernels it launches, what memory it
takes, and `ptxas` how many registers each kernel has. Bytes through the memory's bandwidth bound an entry's time from
below. Nothing runs on a GPU: these are bounds from compilation, and no times.
"""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kip.bench import hlo
from kip.bench.targets import TARGETS, Target
from kip.blocks.tile import tile_functions
from kip.errors import ConfigError, MissingExtraError
from kip.kernels import Architecture, Implementation, tile_memory
from kip.kernels.architecture import kernel_named
from kip.placement import made_for, placed

FORMS: tuple[Implementation, ...] = ("engine", "pallas")
PROGRAMS = ("forward", "pull_columns")
PLUGIN = "jax_plugins.xla_cuda12"


class Compiled(NamedTuple):
    """The knowledge of a compiled program."""

    kernel: str
    form: str
    """`engine`, the form for XLA, or `pallas`, that for GPUs."""
    program: str
    """`forward`, or `pull_columns`, the vjp with respect to the second images."""
    bytes_per_entry: float | None
    """Bytes read and written for an entry, loops counted; None where a loop does not say how often it turns."""
    bound_us: float | None
    """Microseconds for an entry by these bytes and the memory's bandwidth."""
    launches: int | None
    """Kernels launched for the block."""
    memory_mib: float
    """Temporary memory of the block, in MiB."""
    estimate_mib: float
    """The memory that `kip.kernels.tile_memory` plans for it, in MiB."""
    registers: int
    """Registers of a thread, of the kernel that has the most."""
    spilled: int
    """Bytes that the kernels spill, at most."""
    atomics: int
    """Atomic operations in all kernels."""


def measure(
    device: str, kernels: Sequence[str], block: tuple[int, int], image: tuple[int, int, int]
) -> Iterable[Compiled]:
    """Yield what is known of each kernel's programs, in both forms.

    Args:
        device: a name of `TARGETS`.
        kernels: names of convolutional kernels, such as `ConvNet`, `Myrtle5`.
        block: the images on either side.
        image: (H, W, C).

    Raises:
        MissingExtraError: if the plugin or `ptxas` is not installed.
    """
    for name in kernels:
        kernel = kernel_named(name)
        assert isinstance(kernel, Architecture)
        for form in FORMS:
            for program in PROGRAMS:
                yield compiled(TARGETS[device], kernel, form, program, block, image)


def is_possible() -> bool:
    """Return whether programs can be compiled for a GPU here."""
    return find_spec("jax_plugins") is not None and find_spec(PLUGIN) is not None and bool(_assemblers())


def compiled(
    target: Target,
    kernel: Architecture,
    form: Implementation,
    program: str,
    block: tuple[int, int],
    image: tuple[int, int, int],
) -> Compiled:
    """Compile a program of a tile for a GPU and return what is known of it.

    Args:
        target: the GPU.
        kernel: a convolutional kernel.
        form: `engine` or `pallas`.
        program: a name of `kip.blocks.tile.TileFunctions`.
        block: the images on either side.
        image: (H, W, C).

    Raises:
        MissingExtraError: if the plugin or `ptxas` is not installed.
        ConfigError: if JAX has not loaded the plugin.
    """
    if not is_possible():
        raise MissingExtraError(
            "programs for a GPU that is not here need XLA's plugin and ptxas",
            remedy="Run pip install jax-cuda12-plugin jax-cuda12-pjrt nvidia-cuda-nvcc-cu12, of JAX's own version.",
        )
    function: Callable[..., Any] = getattr(tile_functions(kernel, form), program)
    sides, bar = [(count, *image) for count in block], [block] if program != "forward" else []
    shapes = [*(sides[:1] if program == "pull_diagonal" else sides), *bar]
    place = _place(target)
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place) for shape in shapes]
    with tempfile.TemporaryDirectory() as folder:
        options: Any = {"xla_dump_to": folder, "xla_dump_hlo_pass_re": "^$"}
        made = jax.jit(placed(function, "gpu")).lower(*arguments).compile(options)
        found = [_of_kernels(path.read_text(), path) for path in Path(folder).glob("*.ptx")]
    with made_for("gpu"):
        planned = tile_memory(kernel, image, implementation=form).of(*block)
    text, entries = made.as_text(), block[0] * block[1]
    assert text is not None
    moved = hlo.bytes_moved(text)
    of_memory: Any = made.memory_analysis()
    return Compiled(
        kernel.label,
        form,
        program,
        moved and moved / entries,
        moved and 1e6 * moved / entries / target.bandwidth,
        hlo.launches(text),
        of_memory.temp_size_in_bytes / 2**20,
        planned / 2**20,
        max((one.registers for one in found), default=0),
        max((one.spilled for one in found), default=0),
        sum(one.atomics for one in found),
    )


def table(rows: Sequence[Compiled]) -> str:
    """Return the rows as a table in Markdown."""
    head = [
        *("kernel", "form", "program", "MiB an entry", "bound, us", "kernels launched", "MiB / planned"),
        *("registers", "spilled", "atomics"),
    ]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        lines.append(
            [
                *(f"`{row.kernel}`", row.form, row.program),
                "-" if row.bytes_per_entry is None else f"{row.bytes_per_entry / 2**20:.3g}",
                "-" if row.bound_us is None else f"{row.bound_us:.3g}",
                "-" if row.launches is None else str(row.launches),
                f"{row.memory_mib:.0f} / {row.estimate_mib:.0f}",
                *(str(row.registers), str(row.spilled), str(row.atomics)),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class _OfKernels(NamedTuple):
    registers: int
    spilled: int
    atomics: int


def _of_kernels(text: str, path: Path) -> _OfKernels:
    """Return what `ptxas` says of a file of kernels."""
    target = re.search(r"\.target (\w+)", text)
    if target is None or ".entry" not in text:
        return _OfKernels(0, 0, 0)
    command = [str(_assemblers()[0]), "-v", f"-arch={target[1]}", str(path), "-o", str(path.with_suffix(".cubin"))]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return _OfKernels(
        max(map(int, re.findall(r"Used (\d+) registers", said)), default=0),
        max(map(int, re.findall(r"(\d+) bytes spill stores", said)), default=0),
        len(re.findall(r"\b(?:atom|red)\.", text)),
    )


def _assemblers() -> list[Path]:
    return sorted(Path(sysconfig.get_paths()["purelib"]).glob("nvidia/*/bin/ptxas"))


def _place(target: Target) -> jax.sharding.Sharding:
    from jax.experimental import topologies

    try:
        topology = topologies.get_topology_desc(
            platform="cuda", topology_name="", target_config=target.description, topology="1x1x1"
        )
    except NotImplementedError as error:
        raise ConfigError(
            "JAX has not loaded its plugin for CUDA, which looks for a driver first",
            got=f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}",
            expected="JAX_PLATFORMS=cpu",
            remedy="Run JAX_PLATFORMS=cpu kip bench compiled.",
        ) from error
    return jax.sharding.SingleDeviceSharding(topology.devices[0])
