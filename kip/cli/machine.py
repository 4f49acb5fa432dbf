"""Commands about the machine: its speed, and its work for another's run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from kip.cli.options import (
    DataDir,
    Json,
    Out,
    save_json,
)
from kip.data import Data
from kip.progress import counted, say


def bench(
    what: tyro.conf.Positional[
        Literal["kernel", "growth", "methods", "matching", "unrolling", "step", "loader", "memory", "gpu"]
    ],
    *,
    kernels: tuple[str, ...] = ("ConvNet", "ConvNet3", "ConvVec3", "Myrtle5", "FC1"),
    side: int = 32,
    channels: int = 3,
    blocks: tuple[int, ...] = (4, 16),
    repeats: int = 10,
    out: Out = None,
    methods: tuple[str, ...] | None = None,
    size: Literal["small", "paper"] = "small",
    updates: int = 20,
    width: int = 128,
    real_batch: int = 64,
    pictures: int = 2000,
    minutes: float = 8.0,
    data: Annotated[Data, tyro.conf.arg(name="data")] = Data("cifar10"),  # noqa: B008 (frozen)
    data_dir: DataDir = None,
    json: Json = False,
) -> dict[str, Any]:
    """Measure the kernel engine, against neural-tangents or as its cost grows, or the methods with finite networks.

        kip bench kernel --kernels ConvNet FC1 --side 32 --blocks 4 16
        kip bench growth --out growth.png
        kip bench methods --methods frepo rfad --size paper
        kip bench matching --methods dc dm --width 128 --real-batch 64
        kip bench step --kernels ConvNet
        kip bench loader --side 96 --pictures 20000
        kip bench memory --blocks 16 100 256
        kip bench gpu --kernels ConvNet Myrtle5 --blocks 4 8 16 32 --minutes 8

    Args:
        what: What is measured. `kernel` prints a table beside neural-tangents; `growth` draws time against image side,
            depth and block; `methods` prints updates a second and memory; `matching` prints the steps of DC and DM
            beside a plain PyTorch loop's; `unrolling` draws the memory of MTT's student against its steps; `step`
            prints what the parts of a KIP step take, of 10 and of 100 support images against 100 targets; `loader`
            prints how many pictures per second are decoded, and are read and preprocessed for a training; `memory`
            prints what an update of a network gains on CPUs where freed memory is kept; `gpu` writes what an
            accelerator makes of the engine, and of KIP, into a folder.
        kernels: The kernels that `kernel`, `step` and `gpu` measure, such as ConvNet, ConvVec3, Myrtle5, FC1.
        side: The pixels on each side of an image, for `kernel`, `step`, `gpu`, `matching`, `loader` and `memory`.
        channels: The channels of an image, 1 or 3, for `kernel`, `step`, `gpu`, `matching` and `memory`.
        blocks: The images on each side of a block, for `kernel` and `gpu`, or of a batch, for `memory`.
        repeats: How often each program runs; the best time counts. Slow programs stop after ten seconds, and fast ones
            run for two seconds.
        out: The file of the picture that `growth` or `unrolling` draws, growth.png by default; the folder of `gpu`'s
            tables and picture, runs/bench_gpu by default.
        methods: The methods that are measured: among ld, ld_ridge, frepo, rfad, krr_st for `methods`, and dc, dm for
            `matching`; by default all. The peak of memory is that of the process, so that it is true of the largest
            method alone.
        size: The sizes for `methods`: the small ones of this project's configurations, or those of the papers.
        updates: How many updates `methods`, `matching` and each turn of `memory` time, and for how many `loader` makes
            batches of 128. `methods` begins no further update after a minute.
        width: The channels of the network's layers, for `matching`.
        real_batch: The natural images of each class in a step, for `matching`.
        pictures: The pictures that `loader` writes into a folder of its own and decodes.
        minutes: How long `gpu` takes in all; KIP has what the other measurements leave.
        data: The data set that `gpu` runs KIP on.
        data_dir: The folder of NAME.npz files. The default is $KIP_DATA_DIR.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.bench import engine

    if what == "gpu":
        return _bench_gpu(
            out or Path("runs/bench_gpu"), seconds=60 * minutes, kernels=kernels, blocks=blocks,
            image=(side, side, channels), of=data, data_dir=data_dir,
        )  # fmt: skip
    out = out or Path("growth.png")
    if what == "growth":
        growth = engine.growth(repeats)
        engine.draw_growth(growth, out)
        print(f"the picture is {out}")
        return {
            "out": str(out),
            **{name: [[x, cost._asdict()] for x, cost in part] for name, part in growth._asdict().items()},
        }
    if what == "unrolling":
        from kip.bench import matching

        points = matching.memory_of_unrolling()
        matching.draw_memory(points, out)
        print(f"the picture is {out}")
        return {"out": str(out), "points": points}
    if what == "step":
        from kip.bench import step

        steps = step.measure(kernels, (side, side, channels), repeats)
        print(step.table(steps))
        return {"rows": [step._asdict() | {"shares": step.shares} for step in steps]}
    if what == "memory":
        from kip.bench import memory

        kept = memory.measure(blocks, (side, side, channels), updates)
        print(memory.table(kept))
        return {"rows": [row._asdict() | {"ratio": row.ratio} for row in kept]}
    if what == "loader":
        from kip.bench import loader

        rates = list(counted(loader.measure(side, pictures, 128, updates), 5, "loader"))
        print(loader.table(rates))
        return {"rows": [rate._asdict() | {"images_per_second": rate.images_per_second} for rate in rates]}
    if what in ("methods", "matching"):
        from kip.bench import matching
        from kip.bench import methods as learning
        from kip.errors import ConfigError

        known = ["dc", "dm"] if what == "matching" else list(dict.fromkeys(name for name, _ in learning.SUBJECTS))
        names = known if methods is None else methods
        if unknown := [name for name in names if name not in known]:
            raise ConfigError("--methods", got=" ".join(unknown), expected=", ".join(known))
        if what == "matching":
            problem = learning.random_problem((side, side, channels))
            measured = matching.against_torch(names, problem, width=width, real_batch=real_batch, repeats=updates)
            turns = list(counted(measured, len(names), "methods"))
            print(matching.table(turns))
            return {"rows": [turn._asdict() | {"ratio": turn.ratio} for turn in turns]}
        measured = learning.measure(names, size, updates)
        costs = list(counted(measured, len(names), "methods"))
        print(learning.table(costs))
        return {"rows": [row._asdict() for row in costs]}
    compared = engine.compare(kernels, (side, side, channels), blocks, repeats)
    rows = list(counted(compared, len(kernels) * len(blocks), "kernels"))
    print(engine.table(rows))
    print(
        "ratio: neural-tangents' time through kip's. of peak: the time that the forward's arithmetic would take alone."
    )
    nested = ("ours", "neural_tangents")
    return {"rows": [row._asdict() | {name: getattr(row, name)._asdict() for name in nested} for row in rows]}


def _bench_gpu(out: Path, **options: Any) -> dict[str, Any]:
    """Measure, and write gpu.json, gpu.md and gpu.png into a folder."""
    from kip.bench import gpu
    from kip.storage.files import atomic_write

    results = gpu.measure(**options, progress=say)
    text = gpu.as_markdown(results)
    save_json(out / "gpu.json", results)
    atomic_write(out / "gpu.md", lambda file: file.write(text.encode()))
    gpu.draw(results, out / "gpu.png")
    print(text)
    print(f"written: {out}/gpu.json, gpu.md, gpu.png")
    return results


def worker(
    address: tyro.conf.Positional[str],
    *,
    key_file: Path | None = None,
    data_dir: DataDir = None,
    stax: tuple[str, ...] = (),
    patience: float = 300.0,
    follow: int | None = None,
    json: Json = False,
) -> dict[str, Any]:
    """Compute kernel tiles for a run of --executor zmq or launchpad, until it ends; workers may join and leave.

        kip worker-key gpu-7 --run runs/big
        kip worker 127.0.0.1:7710 --key-file runs/big/keys/workers/gpu-7.json

    Args:
        address: HOST:PORT that the run's --address names.
        key_file: The file that `kip worker-key` made, copied to this machine. The default is the file $KIP_WORKER_KEY.
        data_dir: The folder of NAME.npz files. The default is $KIP_DATA_DIR. Without the data set, its images
            are sent.
        stax: The functions of Stax kernels that may be loaded, as the run's configuration names them.
        patience: The seconds without a server after which this worker gives up.
        follow: The id of a process of this machine. This worker ends soon after that process does.
        json: Print one JSON object with the results as the last line of stdout.
    """
    import threading

    from kip.workers import connect
    from kip.workers.keys import read_key
    from kip.workers.worker import Worker

    host, key = connect.parse_address(address), read_key(key_file)
    stop = threading.Event()
    connect.watch(stop, follow)
    served = connect.serve(Worker(data_dir=data_dir, stax=stax), host, key, stop=stop, patience=patience)
    return {"messages": served}


def worker_key(
    name: tyro.conf.Positional[str], *, run: Path, revoke: bool = False, json: Json = False
) -> dict[str, Any]:
    """Make the key with which a worker connects to a run, or revoke it; both also while the run goes on.

        kip worker-key gpu-7 --run runs/big
        kip worker-key gpu-7 --run runs/big --revoke

    Args:
        name: The worker's name in the log and in `kip status`. Processes that share a key are believed, and distrusted,
            as one; so make a key for each machine.
        run: The run's folder. It may be one that `kip distill --out` has still to make.
        revoke: Cut off every worker that has this key, and let nobody connect with it again.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.server.keyring import Keyring

    keyring = Keyring(run)
    if revoke:
        keyring.revoke(name)
        print(f"the key {name} is revoked")
        return {"revoked": name}
    path = keyring.add(name)
    print(path)
    return {"key_file": str(path)}
