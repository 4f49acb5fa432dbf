"""The number of workers that one scheduler keeps busy: `python -m kip.server.bench --workers 256`.

The workers are simulated: each answers one task at a time, after a fixed time, with bytes of the size that the task's
result has. Everything else is real: the plan, messages, checksums, futures, the scheduler. Two things are measured:

- `--task-seconds`: an endless round of equal tasks, and the share of the time in which a worker has one, over all
  workers, from their first tasks to the end.
- `--entry-microseconds`: steps of the paper's size, 100 support and 5000 target images of 32x32x3, forward and
  backward, cut as `--task-columns` says, by workers that need so long for an entry; the seconds of a step beside those
  of workers that never wait.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import json
import re
import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np

from kip.blocks import Images, Task, TileSize, merged, plan
from kip.kernels import RBF
from kip.server.executor import RemoteExecutor
from kip.server.member import Settings
from kip.workers.codec import Message, encode

IMAGE = (32, 32, 3)
SUPPORT, TARGET = 100, 5000
ENTRY_BYTES, MEMORY_BYTES = 1 << 20, 1 << 30
"""Of one entry, and of a tile: they set the tasks of K_ss."""
BACKWARD = 2 / 3
"""The share of an entry's time that its vjp takes."""


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
    """A link to nobody, whose tasks take `seconds(task)` and give `shape(task)`; `spans` are their times."""

    def __init__(self, name: str, clock: _Clock, answers: _Answers):
        self.name = self.key = name
        self._clock, self._answers = clock, answers
        self._until = 0.0
        self.spans: list[tuple[float, float]] = []

    def send(self, payload: bytes, *, most: int = 0) -> Future[bytes]:
        answer: Future[bytes] = Future()
        if found := _TASK.search(payload, 0, _FIRST):
            start = max(time.monotonic(), self._until)
            seconds, result = self._answers.of(found)
            self._until = start + seconds
            self.spans.append((start, self._until))
            self._clock.at(self._until, answer, result)
        else:
            begin = _BEGIN.search(payload, 0, _FIRST)
            self._clock.at(time.monotonic(), answer, self._answers.begun(int(begin[1])) if begin else _OPENED)
        return answer

    def close(self, why: str = "") -> None:
        """Nothing to let go of."""


_FIRST = 1024
"""Bytes of a message that simulated workers look at: to read the whole of it is a real worker's work, and none of this
process."""
_TASK = re.compile(rb'"kind": "(forward|backward)".*"epoch": (\d+).*"task": \["(ss|ts)", (\d+), (\d+), (\d+), (\d+)\]')
_BEGIN = re.compile(rb'"kind": "begin".*?"epoch": (\d+)')


_OPENED = encode(Message("opened", {"holds": True, "pid": 0}))


class _Answers:
    """Messages that tasks take and give: zeros of the right shape, encoded once for each.

    Args:
        task_seconds: of every task; None: as its entries have it.
        entry_seconds: of an entry, forward and vjp.
    """

    def __init__(self, task_seconds: float | None, entry_seconds: float = 0.0):
        self._task_seconds, self._entry_seconds = task_seconds, entry_seconds
        self._encoded: dict[tuple[int, tuple[int, ...]], bytes] = {}
        self._begun: dict[int, bytes] = {}

    def begun(self, epoch: int) -> bytes:
        """Return the answer to the message that begins an epoch."""
        if epoch not in self._begun:
            self._begun[epoch] = encode(Message("begun", {"epoch": epoch}))
        return self._begun[epoch]

    def of(self, task: re.Match[bytes]) -> tuple[float, bytes]:
        """Return the seconds of a task, and its encoded result."""
        top, bottom, left, right = map(int, task.group(4, 5, 6, 7))
        backward, epoch = task[1] == b"backward", int(task[2])
        rows, columns = bottom - top, right - left
        shape = (columns, *IMAGE) if backward else (rows, columns)
        if (epoch, shape) not in self._encoded:
            self._encoded[epoch, shape] = encode(
                Message("result", {"epoch": epoch}, {"result": np.zeros(shape, np.float32)})
            )
        share = BACKWARD if backward else 1 - BACKWARD
        seconds = self._task_seconds
        if seconds is None:
            entries = rows * columns * (0.5 if task[3] == b"ss" else 1.0)  # of K_ss the upper triangle
            seconds = share * self._entry_seconds * entries
        return seconds, self._encoded[epoch, shape]


def measure(workers: int, seconds: float, *, task_seconds: float = 0.08, columns: int = 4) -> dict[str, float]:
    """Return the share of the time that simulated workers are busy, and the tasks a second.

    Args:
        workers: how many.
        seconds: how long to keep them busy.
        task_seconds: what one task takes a worker.
        columns: how many columns a result has, each a 32x32x3 image, as a backward task of the paper's step returns.
    """
    clock, answers = _Clock(), _Answers(task_seconds)
    links = [_SimulatedWorker(str(number), clock, answers) for number in range(workers)]
    task = Task("ts", (0, columns), (0, int(np.prod(IMAGE))))  # so that a block has the bytes of a gradient
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


def measure_steps(
    workers: int, seconds: float, *, entry_microseconds: float, task_columns: int | None
) -> dict[str, float | None]:
    """Return the seconds of a step of the paper's size with simulated workers, and of one without a wait.

    Args:
        workers: how many.
        seconds: how long to go on; at least three steps.
        entry_microseconds: what an entry takes a worker, forward and vjp.
        task_columns: see `kip.blocks.Blocks.task_columns`.
    """
    clock, answers = _Clock(), _Answers(None, entry_microseconds * 1e-6)
    links = [_SimulatedWorker(str(number), clock, answers) for number in range(workers)]
    made = plan(SUPPORT, TARGET, ENTRY_BYTES, MEMORY_BYTES, task_columns=task_columns)
    tasks = [*made.ss, *merged(made, workers)]
    cotangents = [np.zeros(task.shape, np.float32) for task in tasks]
    support, target = (np.zeros((count, *IMAGE), np.float32) for count in (SUPPORT, 1))
    times: list[float] = []
    with RemoteExecutor(links, settings=Settings(check_share=0.0)) as executor:  # zeros are no results
        begun = time.monotonic()
        while len(times) < 4 or time.monotonic() - begun < seconds:
            start = time.monotonic()
            support = np.full_like(support, len(times))  # so that it travels in each step, as a real one does
            executor.begin(Images(RBF(), support, target, TileSize(1, 1, 1)))
            for _ in executor.forward(tasks):
                pass
            for _ in executor.backward(tasks, cotangents):
                pass
            times.append(time.monotonic() - start)
    entries = SUPPORT * TARGET + SUPPORT**2 / 2
    step = statistics.median(times[1:])  # in the first the workers are told of the run
    ideal = entries * entry_microseconds * 1e-6 / workers
    return {
        "workers": workers,
        "entry_microseconds": entry_microseconds,
        "task_columns": task_columns,
        "tasks": 2 * len(tasks),
        "step_seconds": round(step, 4),
        "without_a_wait": round(ideal, 4),
        "busy": round(ideal / step, 3),
        "tasks_per_second": round(2 * len(tasks) / step),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line of JSON for each number of workers, and for each of the other lists."""
    parser = argparse.ArgumentParser(prog="python -m kip.server.bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[256], help="how many; several are measured in turn")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long, for each")
    parser.add_argument("--task-seconds", type=float, default=0.08, help="what one task takes a worker")
    parser.add_argument(
        "--entry-microseconds", type=float, nargs="+", default=[], help="measure whole steps; what an entry takes"
    )
    parser.add_argument(
        "--task-columns", type=int, nargs="+", default=[0], help="support columns of a step's tasks; 0 is the default"
    )
    options = parser.parse_args(arguments)
    if options.entry_microseconds:
        for entry, columns, workers in itertools.product(
            options.entry_microseconds, options.task_columns, options.workers
        ):
            measured = measure_steps(workers, options.seconds, entry_microseconds=entry, task_columns=columns or None)
            print(json.dumps(measured), flush=True)
        return
    for workers in options.workers:
        print(json.dumps(measure(workers, options.seconds, task_seconds=options.task_seconds)), flush=True)


if __name__ == "__main__":
    main()
