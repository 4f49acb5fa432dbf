"""Commands about the machine: its speed, and its work for another's run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import tyro

from kip.cli.options import DataDir, Json


def bench(
    what: tyro.conf.Positional[Literal["kernel", "growth"]],
    *,
    kernels: tuple[str, ...] = ("ConvNet", "ConvNet3", "ConvVec3", "Myrtle5", "FC1"),
    side: int = 32,
    channels: int = 3,
    blocks: tuple[int, ...] = (4, 16),
    repeats: int = 10,
    out: Path = Path("growth.png"),
    json: Json = False,
) -> dict[str, Any]:
    """Measure the kernel engine: against neural-tangents in this process, or how its cost grows.

        kip bench kernel --kernels ConvNet FC1 --side 32 --blocks 4 16
        kip bench growth --out growth.png

    Args:
        what: `kernel` prints a table beside neural-tangents; `growth` draws time against image side, depth and block.
        kernels: For `kernel`: names such as ConvNet, ConvVec3, Myrtle5, FC1.
        side: For `kernel`: pixels on each side of an image.
        channels: For `kernel`: 1 or 3.
        blocks: For `kernel`: images on each side of a block.
        repeats: Runs of each program, of which the best counts; slow ones stop after ten seconds, and fast ones run for
            two seconds.
        out: For `growth`: the picture.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip import bench

    if what == "growth":
        found = bench.growth(repeats)
        bench.draw_growth(found, out)
        print(f"the picture is {out}")
        return {
            "out": str(out),
            **{name: [[x, cost._asdict()] for x, cost in part] for name, part in found._asdict().items()},
        }
    from tqdm import tqdm

    compared = bench.compare(kernels, (side, side, channels), blocks, repeats)
    rows = list(tqdm(compared, "kernels", len(kernels) * len(blocks), file=sys.stderr))
    print(bench.table(rows))
    print(
        "ratio: neural-tangents' time through kip's. of peak: the time that the forward's arithmetic would take alone."
    )
    nested = ("ours", "neural_tangents")
    return {"rows": [row._asdict() | {name: getattr(row, name)._asdict() for name in nested} for row in rows]}


def worker(
    address: tyro.conf.Positional[str],
    *,
    key_file: Path | None = None,
    data_dir: DataDir = None,
    stax: tuple[str, ...] = (),
    json: Json = False,
) -> dict[str, Any]:
    """Compute kernel tiles for a run of --executor launchpad, until it ends; workers may join and leave at any time.

        kip worker 127.0.0.1:7710 --key-file runs/big/workers.key

    Args:
        address: HOST:PORT that the run's --address names.
        key_file: The run's workers.key, copied to this machine; default: the key in $KIP_WORKERS_KEY.
        data_dir: Folder of NAME.npz files; default: $KIP_DATA_DIR. Without the data set, its images are sent.
        stax: The functions of Stax kernels that may be loaded, as the run's configuration names them.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.workers import connect
    from kip.workers.worker import Worker

    host = connect.parse_address(address)
    served = connect.serve(Worker(data_dir=data_dir, stax=stax), host, connect.read_key(key_file))
    return {"messages": served}
