"""Commands that measure this machine: the kernel engine, methods, steps and data loading."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from kip.cli.options import DataDir, Json, Out, OutFolder, save_json
from kip.data import Data
from kip.progress import counted, say

Names = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")]
Numbers = Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")]


def kernel(
    *,
    kernels: Names = ("ConvNet", "ConvNet3", "ConvVec3", "Myrtle5", "FC1"),
    side: int = 32,
    channels: int = 3,
    blocks: Numbers = (4, 16),
    repeats: int = 10,
    json: Json = False,
) -> dict[str, Any]:
    """Measure kernel blocks beside neural-tangents, forward and with gradient: a table.

        kip bench kernel --kernels ConvNet FC1 --side 32 --blocks 4 16

    Args:
        kernels: The kernels that are measured, such as ConvNet, ConvVec3, Myrtle5, FC1.
        side: The pixels on each side of an image.
        channels: The channels of an image, 1 or 3.
        blocks: The images on each side of a block.
        repeats: The number of runs of each program; the best time counts. Slow programs stop after ten seconds, and
            fast ones run for two seconds.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.bench import engine

    rows = list(
        counted(engine.compare(kernels, (side, side, channels), blocks, repeats), len(kernels) * len(blocks), "kernels")
    )
    print(engine.table(rows))
    print(
        "ratio: neural-tangents' time through kip's. of peak: the time that the forward's arithmetic would take alone."
    )
    nested = ("ours", "neural_tangents")
    return {"rows": [row._asdict() | {name: getattr(row, name)._asdict() for name in nested} for row in rows]}


def function(
    *,
    kernels: Names = ("ConvNet",),
    side: int = 32,
    channels: int = 3,
    blocks: Numbers = (16,),
    repeats: int = 10,
    reference: bool = True,
    json: Json = False,
) -> dict[str, Any]:
    """Measure kip.kernel inside JAX programs beside the blocks of KIP and neural-tangents: a table.

        kip bench function --kernels ConvNet --blocks 16

    Args:
        kernels: The kernels that are measured, such as ConvNet, ConvVec3, Myrtle5, FC1.
        side: The pixels on each side of an image.
        channels: The channels of an image, 1 or 3.
        blocks: The images on each side of a block.
        repeats: The number of runs of each program; the best time counts. Slow programs stop after ten seconds, and
            fast ones run for two seconds.
        reference: Measure neural-tangents too.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.bench import function as bench

    measured = bench.measure(kernels, (side, side, channels), blocks, repeats, reference)
    rows = list(counted(measured, len(kernels) * len(blocks), "kernels"))
    print(bench.table(rows))
    print("ms of a block, value / gradient; ratio: kip.kernel's time through the blocks'.")
    return {"rows": [_nested(row) | {"ratios": row.ratios._asdict()} for row in rows]}


def growth(*, repeats: int = 10, out: Out = Path("growth.png"), json: Json = False) -> dict[str, Any]:
    """Draw how an entry's time grows with the image's side, the depth and the block.

        kip bench growth --out growth.png

    Args:
        repeats: The number of runs of each program; the best time counts.
        out: The file of the picture.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.bench import engine

    assert out is not None
    grown = engine.growth(repeats)
    engine.draw_growth(grown, out)
    print(f"the picture is {out}")
    costs = {name: [[x, cost._asdict()] for x, cost in part] for name, part in grown._asdict().items()}
    return {"out": str(out), **costs}


def methods(
    *,
    methods: Names | None = None,
    size: Literal["small", "paper"] = "small",
    updates: int = 20,
    json: Json = False,
) -> dict[str, Any]:
    """Measure updates a second, and the memory, of methods with finite networks: a table.

        kip bench methods --methods frepo rfad --size paper

    Args:
        methods: The methods that are measured: among ld, ld_ridge, frepo, rfad and krr_st. The default is all. The peak
            of memory is that of the process, so that it is true of the largest method alone.
        size: The sizes: the small ones of this project's configurations, or those of the papers.
        updates: The number of updates that are timed; none begins after a minute.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.bench import methods as learning

    names = _known(methods, list(dict.fromkeys(name for name, _ in learning.SUBJECTS)))
    costs = list(counted(learning.measure(names, size, updates), len(names), "methods"))
    print(learning.table(costs))
    return {"rows": [row._asdict() for row in costs]}


def networks(
    *,
    widths: Numbers = (32, 128),
    side: int = 32,
    channels: int = 3,
    repeats: int = 10,
    json: Json = False,
) -> dict[str, Any]:
    """Measure updates of a ConvNet-D3 and their parts, beside updates with XLA's convolutions alone: a table.

        kip bench networks --widths 32 128

    Args:
        widths: The channels of the networks' layers. A batch has 128 images.
        side: The pixels on each side of an image.
        channels: The channels of an image, 1 or 3.
        repeats: The number of runs of each program; the median counts.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.bench import networks as bench

    measured = bench.measure(widths, (side, side, channels), bench.BATCH, repeats)
    updates = list(counted(measured, len(widths) * len(bench.AUGMENTATIONS), "networks"))
    print(bench.table(updates))
    return {"rows": [row._asdict() | {"shares": row.shares} for row in updates]}


def matching(
    *,
    methods: Names | None = None,
    side: int = 32,
    channels: int = 3,
    width: int = 128,
    real_batch: int = 64,
    updates: int = 20,
    json: Json = False,
) -> dict[str, Any]:
    """Measure steps of DC and DM beside a plain PyTorch loop's, in turns: a table.

        kip bench matching --methods dc dm --width 128 --real-batch 64

    Args:
        methods: The methods that are measured: dc, dm. The default is both.
        side: The pixels on each side of an image.
        channels: The channels of an image, 1 or 3.
        width: The channels of the network's layers.
        real_batch: The natural images of each class in a step.
        updates: The number of steps that are timed.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.bench import matching as bench
    from kip.bench.methods import random_problem

    names = _known(methods, ["dc", "dm"])
    problem = random_problem((side, side, channels))
    measured = bench.against_torch(names, problem, width=width, real_batch=real_batch, repeats=updates)
    turns = list(counted(measured, len(names), "methods"))
    print(bench.table(turns))
    return {"rows": [turn._asdict() | {"ratio": turn.ratio} for turn in turns]}


def unrolling(*, out: Out = Path("unrolling.png"), json: Json = False) -> dict[str, Any]:
    """Draw the memory of MTT's student against the steps that it is unrolled over.

        kip bench unrolling --out unrolling.png

    Args:
        out: The file of the picture.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.bench import matching as bench

    assert out is not None
    points = bench.memory_of_unrolling()
    bench.draw_memory(points, out)
    print(f"the picture is {out}")
    return {"out": str(out), "points": points}


def step(
    *,
    kernels: Names = ("ConvNet", "ConvNet3", "ConvVec3", "Myrtle5", "FC1"),
    side: int = 32,
    channels: int = 3,
    repeats: int = 10,
    json: Json = False,
) -> dict[str, Any]:
    """Measure the parts of a KIP step, of 10 and of 100 support images against 100 targets: a table.

        kip bench step --kernels ConvNet

    Args:
        kernels: The kernels that are measured, such as ConvNet, ConvVec3, Myrtle5, FC1.
        side: The pixels on each side of an image.
        channels: The channels of an image, 1 or 3.
        repeats: The number of runs of each program; the best time counts.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.bench import step as bench

    steps = bench.measure(kernels, (side, side, channels), repeats)
    print(bench.table(steps))
    return {"rows": [step._asdict() | {"shares": step.shares} for step in steps]}


def devices(
    *,
    kernel: str = "ConvNet",
    side: int = 16,
    channels: int = 3,
    support: int = 100,
    targets: int = 960,
    simulated: int | None = None,
    out: Out = Path("devices.png"),
    json: Json = False,
) -> dict[str, Any]:
    """Draw when each device of this host computes in the kernel blocks of one step of KIP.

        kip bench devices --kernel ConvNet3 --simulated 4 --out devices.svg

    Args:
        kernel: The kernel, such as ConvNet, ConvVec3, Myrtle5, FC1.
        side: The pixels on each side of an image.
        channels: The channels of an image, 1 or 3.
        support: The number of support images.
        targets: The number of target images.
        simulated: The number of devices that are simulated on the CPU. The default is the devices of this host.
        out: The file of the picture, PNG, PDF or SVG.
        json: Print one JSON object with the results as the last line of stdout.
    """
    import jax

    from kip.bench import devices as bench
    from kip.errors import ConfigError

    assert out is not None
    for name, number in (("--support", support), ("--targets", targets), ("--simulated", simulated)):
        if number is not None and number < 1:
            raise ConfigError(name, got=number, expected="at least 1")
    if simulated is not None:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", simulated)
    busy = bench.measure(kernel, (side, side, channels), support, targets)
    bench.draw(busy, out)
    print(bench.table(busy))
    print(f"the picture is {out}")
    return {"out": str(out), "shares": busy.shares, "spans": [span._asdict() for span in busy.spans]}


def loader(*, side: int = 32, pictures: int = 2000, updates: int = 20, json: Json = False) -> dict[str, Any]:
    """Measure how many pictures a second are decoded, and are read and preprocessed for a training: a table.

        kip bench loader --side 96 --pictures 20000

    Args:
        side: The pixels on each side of a picture.
        pictures: The pictures that are written into a folder of their own and decoded.
        updates: For how many updates batches of 128 are made.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.bench import loader as bench

    rates = list(counted(bench.measure(side, pictures, 128, updates), 5, "loader"))
    print(bench.table(rates))
    return {"rows": [rate._asdict() | {"images_per_second": rate.images_per_second} for rate in rates]}


def memory(
    *,
    blocks: Numbers = (16, 100, 256),
    side: int = 32,
    channels: int = 3,
    updates: int = 20,
    json: Json = False,
) -> dict[str, Any]:
    """Measure what an update of a network gains on CPUs where freed memory is kept: a table.

        kip bench memory --blocks 16 100 256

    Args:
        blocks: The images of a batch.
        side: The pixels on each side of an image.
        channels: The channels of an image, 1 or 3.
        updates: The number of updates that each turn times.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.bench import memory as bench

    kept = bench.measure(blocks, (side, side, channels), updates)
    print(bench.table(kept))
    return {"rows": [row._asdict() | {"ratio": row.ratio} for row in kept]}


def gpu(
    *,
    kernels: Names = ("ConvNet", "ConvNet3", "ConvVec3", "Myrtle5", "FC1"),
    side: int = 32,
    channels: int = 3,
    blocks: Numbers = (4, 16),
    minutes: float = 8.0,
    data: Annotated[Data, tyro.conf.arg(name="data")] = Data("cifar10"),  # noqa: B008 (frozen)
    data_dir: DataDir = None,
    out: OutFolder = Path("runs/bench_gpu"),
    json: Json = False,
) -> dict[str, Any]:
    """Measure what an accelerator makes of the kernel engine, and of KIP: tables and a picture in a folder.

        kip bench gpu --kernels ConvNet Myrtle5 --blocks 4 8 16 32 --minutes 8

    Args:
        kernels: The kernels that are measured, such as ConvNet, ConvVec3, Myrtle5, FC1.
        side: The pixels on each side of an image.
        channels: The channels of an image, 1 or 3.
        blocks: The images on each side of a block.
        minutes: The minutes that all of it takes; KIP has those that the other measurements leave.
        data: The data set that KIP runs on.
        data_dir: The folder of NAME.npz files. The default is $KIP_DATA_DIR.
        out: The folder of the tables and the picture.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.bench import gpu as bench
    from kip.storage.files import atomic_write

    assert out is not None
    results = bench.measure(
        seconds=60 * minutes,
        kernels=kernels,
        blocks=blocks,
        image=(side, side, channels),
        of=data,
        data_dir=data_dir,
        progress=say,
    )
    text = bench.as_markdown(results)
    save_json(out / "gpu.json", results)
    atomic_write(out / "gpu.md", lambda file: file.write(text.encode()))
    bench.draw(results, out / "gpu.png")
    print(text)
    print(f"written: {out}/gpu.json, gpu.md, gpu.png")
    return results


def compiled(
    *,
    device: Literal["h100", "a100"] = "h100",
    kernels: Names = ("ConvNet", "ConvNet3", "ConvVec3", "Myrtle5"),
    side: int = 32,
    channels: int = 3,
    blocks: Numbers = (16, 64),
    json: Json = False,
) -> dict[str, Any]:
    """Compile the engine's programs for a GPU that is not here: bytes, launches, memory and registers in a table.

        JAX_PLATFORMS=cpu kip bench compiled --device h100 --kernels ConvNet

    Args:
        device: The GPU that programs are compiled for.
        kernels: The kernels that are compiled, such as ConvNet, ConvVec3, Myrtle5.
        side: The pixels on each side of an image.
        channels: The channels of an image, 1 or 3.
        blocks: The numbers of support and of target images of the block.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.bench import compiled as bench
    from kip.errors import ConfigError

    if len(blocks) != 2:
        raise ConfigError("--blocks", got=" ".join(map(str, blocks)), expected="two numbers, support and target images")
    support, target = blocks
    count = len(kernels) * len(bench.FORMS) * len(bench.PROGRAMS)
    found = bench.measure(device, kernels, (target, support), (side, side, channels))
    rows = list(counted(found, count, "programs"))
    print(bench.table(rows))
    print(f"bounds from compilation for {bench.TARGETS[device].name}; nothing here has run on a GPU")
    return {"rows": [row._asdict() for row in rows]}


def _nested(row: Any) -> dict[str, Any]:
    """Return a named tuple, and those within it, as JSON-ready dictionaries."""
    return {name: part._asdict() if hasattr(part, "_asdict") else part for name, part in row._asdict().items()}


def _known(names: tuple[str, ...] | None, known: list[str]) -> list[str]:
    """Return the methods that are asked for; all of them where none is."""
    from kip.errors import ConfigError

    if names is None:
        return known
    if unknown := [name for name in names if name not in known]:
        raise ConfigError("--methods", got=" ".join(unknown), expected=", ".join(known))
    return list(names)
