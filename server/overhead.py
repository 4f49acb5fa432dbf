"""The cost of distribution: `python -m kip.server.overhead` times the same steps here and on worker processes.

Three kinds of step take turns on this machine, so that what else it does slows all of them: in this process; on workers
over plain connections whose every result is believed; and on workers as a run has them, with encryption and a share of
the tasks computed twice. A step is the kernel matrices of some support images against a target batch of the digits, and
the gradient; its bits are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from kip import data, preprocess
from kip.blocks import Blocks, Executor, KernelBlocks, LocalExecutor
from kip.experiment import Experiment
from kip.kernels import Architecture
from kip.methods.kernel.kip import KIP
from kip.methods.problem import Problem
from kip.runs.setup import problem_of
from kip.server import service, zmq
from kip.server.executor import RemoteExecutor
from kip.server.member import Settings
from kip.server.router import Router
from kip.workers.connect import parse_address, serve
from kip.workers.worker import Worker


def measure(workers: int, turns: int, *, kernel: Architecture, target: int, columns: int) -> dict[str, float]:
    """Return the median seconds of a step of each kind, and their ratios.

    `ratio` is that of workers as a run has them to this process; `cost` that of the same to plain workers.

    Args:
        workers: worker processes.
        turns: steps of each kind.
        kernel: the kernel; one that takes long shows the overhead of a task, one that does not, that of its bytes.
        target: target images.
        columns: support columns of a task.
    """
    method = KIP(2, kernels=(kernel,), target_batch=target)
    experiment = Experiment(method)
    with tempfile.TemporaryDirectory() as folder, LocalExecutor() as local, contextlib.ExitStack() as stack:
        plain = stack.enter_context(_plain(experiment, workers))
        secure = stack.enter_context(zmq.executor(experiment, Path(folder), workers=workers))
        executors: dict[str, Executor] = {"local": local, "plain": plain, "distributed": secure}
        problems = {name: _problem(experiment, executor, columns) for name, executor in executors.items()}
        seconds: dict[str, list[float]] = {name: [] for name in executors}
        for turn in range(turns + 3):  # the first three compile
            results = []
            for name, problem in problems.items():
                took, result = _step(problem, method, turn)
                results.append(result)
                if turn > 2:
                    seconds[name].append(took)
            for here, *there in zip(*results, strict=True):
                for array in there:
                    np.testing.assert_array_equal(here, array)
        for remote in (plain, secure):
            if len(remote.scheduler.members) < workers:
                raise RuntimeError(f"only {len(remote.scheduler.members)} of {workers} workers came")
        twice = secure.scheduler.checks.made / secure.scheduler.done
    medians = {name: round(statistics.median(times), 4) for name, times in seconds.items()}
    return {
        **medians,
        "ratio": round(medians["distributed"] / medians["local"], 4),
        "cost": round(medians["distributed"] / medians["plain"], 4),
        "computed_twice": round(twice, 4),
        "workers": workers,
        "turns": turns,
    }


@contextlib.contextmanager
def _plain(experiment: Experiment, workers: int) -> Iterator[RemoteExecutor]:
    """An executor over plain connections to workers of its own, whose every result is believed."""
    router = Router(None)
    settings = Settings(check_share=0.0)
    remote = RemoteExecutor([], **service.introduction(experiment, None), settings=settings, on_close=router.close)
    router.open(remote.scheduler.join, remote.scheduler.leave)
    command = [sys.executable, "-m", "kip.server.overhead", "--serve", f"{router.address[0]}:{router.address[1]}"]
    processes = [subprocess.Popen(command) for _ in range(workers)]
    try:
        with remote:
            yield remote
    finally:
        for process in processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:  # on a busy machine the word to stop may come too late
                process.kill()
                process.wait()


def _problem(experiment: Experiment, executor: Executor, columns: int) -> Problem:
    dataset = data.load(experiment.data)
    transform = preprocess.fit(experiment.preprocess, dataset.train.images)
    blocks = KernelBlocks(Blocks(task_columns=columns), executor)
    return problem_of(experiment, dataset, transform, blocks, None)


def _step(problem: Problem, method: KIP, step: int) -> tuple[float, tuple[np.ndarray, ...]]:
    """Return the seconds of a step's kernel matrices and gradient, and these."""
    state = problem.natural_support(method.images_per_class)
    batch = problem.target_batch(method.target_batch, step=step)
    began = time.monotonic()
    k_ss, k_ts = problem.blocks.forward(method.kernels[0], np.asarray(state.inputs), batch.images, source=batch.source)
    gradient = problem.blocks.backward(k_ss, k_ts)
    return time.monotonic() - began, (k_ss, k_ts, gradient)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m kip.server.overhead", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--target", type=int, default=600, help="target images of a step")
    parser.add_argument("--columns", type=int, default=5, help="support columns of a task")
    parser.add_argument("--depth", type=int, default=3, help="of the ConvNet; one of 1 compiles sooner")
    parser.add_argument("--serve", metavar="HOST:PORT", help="be a plain worker of the server there, for this program")
    options = parser.parse_args(arguments)
    if options.serve:
        serve(Worker(), parse_address(options.serve), None)
        return
    kernel = Architecture("ConvNet", options.depth)
    overhead = measure(options.workers, options.turns, kernel=kernel, target=options.target, columns=options.columns)
    print(json.dumps(overhead))


if __name__ == "__main__":
    main()
