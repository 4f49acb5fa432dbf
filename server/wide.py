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
from collections.abc import Sequence
from typing import NamedTuple

from kip.blocks import Task, merged, plan

IMAGE_BYTES = 32 * 32 * 3 * 4
INDEX_BYTES = 8
CHUNK_BYTES = 1 << 16
ENTRY_BYTES, MEMORY_BYTES = 1 << 20, 1 << 30
"""Of one entry, and of a tile: they set the tasks of K_ss."""
BACKWARD = 2 / 3
"""The share of an entry's time that its vjp takes."""


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


def star(workers: int, support: int, target: int, entry: float, links: Links) -> Step:
    """Return the cost of a step as it is built.

    Args:
        workers: how many, of equal speed.
        support: support images of 32x32x3.
        target: target images.
        entry: seconds of an entry, forward and vjp.
        links: what the messages pass.
    """
    tasks = _tasks(workers, support, target)
    images = support * IMAGE_BYTES + target * INDEX_BYTES
    blocks = sum(4 * task.shape[0] * task.shape[1] for task in tasks)
    gradients = sum(task.shape[1] * IMAGE_BYTES for task in tasks)
    broadcast = max(workers * max(_seconds(images, links.server), links.message), _seconds(images, links.down))
    rows, columns = max((task.shape for task in tasks), key=lambda shape: shape[1])
    back = max(_seconds(gradients + blocks, links.server), 2 * len(tasks) * links.message)
    back += _seconds(columns * IMAGE_BYTES, links.up) + _seconds(4 * rows * columns, links.down)
    return Step(
        broadcast + links.latency,
        _compute(workers, tasks, entry),
        back + 4 * links.latency,  # a task and its result, forward and vjp
        workers * images + 2 * blocks + gradients,  # cotangents have the bytes of the blocks
    )


def tree(workers: int, support: int, target: int, entry: float, links: Links, fan_out: int = 2) -> Step:
    """Return the cost of a step whose images and gradients are passed on by the workers.

    Args:
        workers: how many, of equal speed.
        support: support images of 32x32x3.
        target: target images.
        entry: seconds of an entry, forward and vjp.
        links: what the messages pass.
        fan_out: to how many others each passes on what it gets.
    """
    tasks = _tasks(workers, support, target)
    depth = 1
    while sum(fan_out**level for level in range(1, depth + 1)) < workers:
        depth += 1
    images, gradient = support * IMAGE_BYTES + target * INDEX_BYTES, support * IMAGE_BYTES
    blocks = sum(4 * task.shape[0] * task.shape[1] for task in tasks)
    chunk = min(CHUNK_BYTES, gradient)
    passing = fan_out * _seconds(images, links.up) + depth * (links.latency + fan_out * _seconds(chunk, links.up))
    # A worker adds what comes from `fan_out` others to its own, chunk by chunk, and sends one gradient on.
    adding = max(fan_out * _seconds(gradient, links.down), _seconds(gradient, links.up))
    back = max(adding, _seconds(blocks, links.server)) + depth * (links.latency + _seconds(chunk, links.up))
    return Step(
        passing,
        _compute(workers, tasks, entry),
        back + 3 * links.latency,
        fan_out * (images + gradient) + 2 * blocks,
    )


def _tasks(workers: int, support: int, target: int) -> list[Task]:
    made = plan(support, target, ENTRY_BYTES, MEMORY_BYTES)
    return [*made.ss, *merged(made, workers)]


def _compute(workers: int, tasks: Sequence[Task], entry: float) -> float:
    """Return the seconds of the tasks: each goes to the worker that is free first, forward and then vjp."""
    total = 0.0
    for share in (1 - BACKWARD, BACKWARD):
        free = [0.0] * workers
        for task in tasks:
            rows, columns = task.shape
            entries = rows * columns - (rows * (rows - 1) / 2 if task.matrix == "ss" else 0)
            heapq.heapreplace(free, free[0] + share * entry * entries)
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
        text = {"server": "megabits a second", "down": "megabits a second", "up": "megabits a second"}.get(
            name, "seconds"
        )
        parser.add_argument(f"--{name}", type=float, default=default, help=f"{text}; see `kip.server.wide.Links`")
    options = parser.parse_args(arguments)
    links = Links(**{name: getattr(options, name) for name in Links._fields})
    entry = 1e-6 * options.entry_microseconds
    alone = entry * (options.support * options.target + options.support**2 / 2)
    for workers in options.workers:
        of = workers, options.support, options.target, entry, links
        for name, step in (("star", star(*of)), ("tree", tree(*of, options.fan_out))):
            row = {"workers": workers, "way": name, **{key: round(value, 2) for key, value in step._asdict().items()}}
            print(
                json.dumps({**row, "seconds": round(step.seconds, 2), "times_as_fast": round(alone / step.seconds, 1)})
            )


if __name__ == "__main__":
    main()
