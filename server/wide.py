"""The cost of a step over slow links, on paper: `python -m kip.server.wide --workers 1000`.

Nothing is sent: a step is cut as a real one is, its tasks are dealt to workers of equal speed, and a message takes the
time that its bytes take on the links that it passes. Two ways of sending are compared:

    star      what is built: the server sends X_s to each worker, and every task's gradient comes back to it
    tree      not built: X_s is passed on in chunks from worker to worker, each to `fan_out` others; gradients are added
              up on the same way back, which is a tree of sums as `kip.blocks.plan.settle` has it

The workers hold the data set, so that targets are named and not sent. The server's solve of K_ss is left out.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from collections.abc import Sequence
from typing import NamedTuple

from kip.blocks import Task, merged, plan
from kip.server.bench import BACKWARD, ENTRY_BYTES, IMAGE, MEMORY_BYTES

IMAGE_BYTES = 4 * math.prod(IMAGE)
INDEX_BYTES = 8
CHUNK_BYTES = 1 << 16


class Links(NamedTuple):
    """The links of a server and its workers.

    Attributes:
        server: megabits a second of the server, up and down each.
        down: megabits a second to a worker.
        up: megabits a second from a worker.
        latency: seconds one way.
        message: seconds of the server's processor for a message.
    """

    server: float = 1000.0
    down: float = 50.0
    up: float = 10.0
    latency: float = 0.05
    message: float = 1e-4


class Work(NamedTuple):
    """The work of a step, and who does it.

    Attributes:
        workers: how many, of equal speed.
        support: support images of 32x32x3.
        target: target images.
        entry: seconds of an entry, forward and vjp.
    """

    workers: int
    support: int
    target: int
    entry: float

    @property
    def tasks(self) -> list[Task]:
        """The tasks, as they are handed out."""
        made = plan(self.support, self.target, ENTRY_BYTES, MEMORY_BYTES)
        return [*made.ss, *merged(made, self.workers)]

    @property
    def gradient(self) -> int:
        """Bytes of X_s, and of its gradient."""
        return self.support * IMAGE_BYTES

    @property
    def images(self) -> int:
        """Bytes of X_s, and of the numbers of the targets."""
        return self.gradient + self.target * INDEX_BYTES


class Step(NamedTuple):
    """The time and bytes of a step.

    Attributes:
        broadcast: seconds until the last worker has the step's images.
        compute: seconds of the tasks, forward and vjp, with nobody waiting for a message.
        gather: seconds in which blocks, cotangents and gradients travel beside that.
        server_bytes: what passes the server's link, both ways.
    """

    broadcast: float
    compute: float
    gather: float
    server_bytes: int

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.broadcast + self.compute + self.gather


def star(work: Work, links: Links) -> Step:
    """Return the cost of a step as it is built."""
    tasks = work.tasks
    blocks = _block_bytes(tasks)
    gradients = sum(task.shape[1] * IMAGE_BYTES for task in tasks)
    sending = work.workers * max(_seconds(work.images, links.server), links.message)
    rows, columns = max((task.shape for task in tasks), key=lambda shape: shape[1])
    back = max(_seconds(gradients + blocks, links.server), 2 * len(tasks) * links.message)
    back += _seconds(columns * IMAGE_BYTES, links.up) + _seconds(4 * rows * columns, links.down)
    return Step(
        max(sending, _seconds(work.images, links.down)) + links.latency,
        _compute(work, tasks),
        back + 4 * links.latency,  # a task and its result, forward and vjp
        work.workers * work.images + 2 * blocks + gradients,  # cotangents have the bytes of the blocks
    )


def tree(work: Work, links: Links, fan_out: int = 2) -> Step:
    """Return the cost of a step whose images and gradients each worker passes on, to and from `fan_out` others."""
    tasks = work.tasks
    depth = 1
    while sum(fan_out**level for level in range(1, depth + 1)) < work.workers:
        depth += 1
    blocks = _block_bytes(tasks)
    chunk = min(CHUNK_BYTES, work.gradient)
    passing = fan_out * _seconds(work.images, links.up)
    passing += depth * (links.latency + fan_out * _seconds(chunk, links.up))
    # A worker adds what comes from `fan_out` others to its own, chunk by chunk, and sends one gradient on.
    adding = max(fan_out * _seconds(work.gradient, links.down), _seconds(work.gradient, links.up))
    back = max(adding, _seconds(blocks, links.server)) + depth * (links.latency + _seconds(chunk, links.up))
    return Step(
        passing,
        _compute(work, tasks),
        back + 3 * links.latency,
        fan_out * (work.images + work.gradient) + 2 * blocks,
    )


def _block_bytes(tasks: Sequence[Task]) -> int:
    return sum(4 * math.prod(task.shape) for task in tasks)


def _compute(work: Work, tasks: Sequence[Task]) -> float:
    """Return the seconds of the tasks: each goes to the worker that is free first, forward and then vjp."""
    total = 0.0
    for share in (1 - BACKWARD, BACKWARD):
        free = [0.0] * work.workers
        for task in tasks:
            rows, columns = task.shape
            entries = rows * columns - (rows * (rows - 1) / 2 if task.matrix == "ss" else 0)
            heapq.heapreplace(free, free[0] + share * work.entry * entries)
        total += max(free)
    return total


def _seconds(size: int, megabits: float) -> float:
    return 8e-6 * size / megabits


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line of JSON for each way of sending and each number of workers."""
    parser = argparse.ArgumentParser(prog="python -m kip.server.wide", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1000], help="how many; several are computed in turn")
    parser.add_argument("--support", type=int, default=100, help="support images of 32x32x3")
    parser.add_argument("--target", type=int, default=5000, help="target images of a step")
    parser.add_argument("--entry-microseconds", type=float, default=1000.0, help="what an entry takes a worker")
    parser.add_argument("--fan-out", type=int, default=2, help="to how many others a worker of the tree passes on")
    for name, default in Links._field_defaults.items():
        unit = "seconds" if name in ("latency", "message") else "megabits a second"
        parser.add_argument(f"--{name}", type=float, default=default, help=f"{unit}; see `kip.server.wide.Links`")
    options = parser.parse_args(arguments)
    links = Links(**{name: getattr(options, name) for name in Links._fields})
    entry = 1e-6 * options.entry_microseconds
    alone = entry * (options.support * options.target + options.support**2 / 2)
    for workers in options.workers:
        work = Work(workers, options.support, options.target, entry)
        for name, step in (("star", star(work, links)), ("tree", tree(work, links, options.fan_out))):
            parts = {key: round(value, 2) for key, value in step._asdict().items()}
            total = {"seconds": round(step.seconds, 2), "times_as_fast": round(alone / step.seconds, 1)}
            print(json.dumps({"workers": workers, "way": name, **parts, **total}))


if __name__ == "__main__":
    main()
