"""How many workers one scheduler keeps busy: `python -m kip.server.bench --workers 256`.

The workers are simulated: each answers one task at a time, after a fixed time, with bytes of the size that a gradient
of the paper's step has. Everything else is real: messages, checksums, futures, the scheduler. What is measured is the
share of the time in which a worker has a task, over all workers, from their first tasks to the end.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np

from kip.blocks import Images, Task, TileSize
from kip.kernels import RBF
from kip.server.executor import RemoteExecutor
from kip.server.member import Settings
from kip.workers.codec import Message, decode, encode

IMAGE = (32, 32, 3)


class _EnoughError(Exception):
    """The time is over."""


class _Clock:
    """Sets results at their times, in a thread of its own."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Future[bytes], bytes]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def at(self, when: float, future: Future[bytes], answer: bytes) -> None:
        with self._changed:
            heapq.heappush(self._heap, (when, next(self._numbers), future, answer))
            if self._heap[0][2] is future:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._heap or self._heap[0][0] > time.monotonic():
                    self._changed.wait(self._heap[0][0] - time.monotonic() if self._heap else None)
                _, _, future, answer = heapq.heappop(self._heap)
            future.set_result(answer)


class _SimulatedWorker:
    """A link to nobody; `busy` sums the seconds of its tasks, in order, up to any time."""

    def __init__(self, name: str, clock: _Clock, task_seconds: float, result: np.ndarray):
        self.name = name
        self._clock, self._seconds = clock, task_seconds
        self._until = 0.0
        self._answer = encode(Message("result", {"epoch": 1}, {"result": result}))
        self.spans: list[tuple[float, float]] = []

    def send(self, payload: bytes) -> Future[bytes]:
        answer: Future[bytes] = Future()
        kind = decode(payload).kind
        if kind == "forward":
            start = max(time.monotonic(), self._until)
            self._until = start + self._seconds
            self.spans.append((start, self._until))
            self._clock.at(self._until, answer, self._answer)
        else:
            fields = {"open": {"holds": True, "pid": 0}, "begin": {"epoch": 1}, "ping": {}}[kind]
            said = {"open": "opened", "begin": "begun", "ping": "pong"}[kind]
            self._clock.at(time.monotonic(), answer, encode(Message(said, fields)))
        return answer

    def close(self, why: str = "") -> None:
        """Nothing to let go of."""


def measure(workers: int, seconds: float, *, task_seconds: float = 0.08, columns: int = 4) -> dict[str, float]:
    """Return the share of the time that simulated workers are busy, and the tasks a second.

    Args:
        workers: how many.
        seconds: how long to keep them busy.
        task_seconds: what one task takes a worker.
        columns: how many columns a result has, each a 32x32x3 image, as a backward task of the paper's step returns.
    """
    clock = _Clock()
    result = np.zeros((columns, int(np.prod(IMAGE))), np.float32)
    links = [_SimulatedWorker(str(number), clock, task_seconds, result) for number in range(workers)]
    task = Task("ts", (0, columns), (0, result.shape[1]))  # so that a block has the bytes of a gradient
    support = np.zeros((1, *IMAGE), np.float32)

    def look(executor: RemoteExecutor) -> None:
        if executor.scheduler.done and time.monotonic() - start >= seconds:
            raise _EnoughError

    start = float("inf")
    with RemoteExecutor(links, on_tick=look, settings=Settings(check_share=0.0)) as executor:  # zeros are no results
        executor.begin(Images(RBF(), support, support, TileSize(1, 1, 1)))
        start = time.monotonic()
        processor = time.process_time()
        with contextlib.suppress(_EnoughError):
            for _ in executor.forward([task] * int(workers * seconds / task_seconds)):
                pass
        last, done = time.monotonic(), executor.scheduler.done
        processor = time.process_time() - processor
    busy = sum(max(0.0, min(end, last) - begin) for link in links for begin, end in link.spans)
    return {
        "workers": workers,
        "seconds": round(last - start, 2),
        "busy": round(busy / (workers * (last - start)), 4),
        "tasks_per_second": round(done / (last - start), 1),
        "processor_share": round(processor / (last - start), 3),
        "tasks_per_processor_second": round(done / processor),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line of JSON for each number of workers."""
    parser = argparse.ArgumentParser(prog="python -m kip.server.bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[256], help="how many; several are measured in turn")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long, for each")
    parser.add_argument("--task-seconds", type=float, default=0.08, help="what one task takes a worker")
    options = parser.parse_args(arguments)
    for workers in options.workers:
        print(json.dumps(measure(workers, options.seconds, task_seconds=options.task_seconds)), flush=True)


if __name__ == "__main__":
    main()
