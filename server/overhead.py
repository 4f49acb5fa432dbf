"""What distribution costs: `python -m kip.server.overhead` times the same steps here and on worker processes.

Both share this machine, and take turns, so that what else it does slows both. A step is the kernel matrices of some
support images against a target batch of the digits, and the gradient; its bits are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np

from kip import data, preprocess, train
from kip.blocks import Blocks, Executor, KernelBlocks, LocalExecutor
from kip.distill import KIP, Problem
from kip.experiment import Experiment
from kip.kernels import Architecture
from kip.server import service
from kip.server.executor import RemoteExecutor
from kip.server.tcp import Door


def measure(workers: int, turns: int, *, kernel: Architecture, target: int, columns: int) -> dict[str, float]:
    """Return the median seconds of a step, local and distributed, and their ratio.

    Args:
        workers: worker processes.
        turns: steps of each kind.
        kernel: the kernel; one that takes long shows the overhead of a task, one that does not, that of its bytes.
        target: target images.
        columns: support columns of a task.
    """
    method = KIP(2, kernels=(kernel,), target_batch=target)
    experiment = Experiment(method)
    door = Door()
    remote = RemoteExecutor([], **service.introduction(experiment, None), on_close=door.close)
    door.open(remote.scheduler.join, remote.scheduler.leave)
    environment = {**os.environ, "KIP_WORKERS_KEY": door.key.decode()}
    address = f"{door.address[0]}:{door.address[1]}"
    command = [sys.executable, "-m", "kip.cli", "worker", address]
    processes = [subprocess.Popen(command, env=environment) for _ in range(workers)]
    try:
        with LocalExecutor() as local, remote:
            executors: dict[str, Executor] = {"local": local, "distributed": remote}
            problems = {name: _problem(experiment, executor, columns) for name, executor in executors.items()}
            seconds: dict[str, list[float]] = {"local": [], "distributed": []}
            for turn in range(turns + 2):  # the first two compile
                results = []
                for name, problem in problems.items():
                    took, result = _step(problem, method, turn)
                    results.append(result)
                    if turn > 1:
                        seconds[name].append(took)
                for ours, theirs in zip(*results, strict=True):
                    np.testing.assert_array_equal(ours, theirs)
            if len(remote.scheduler.members) < workers:
                raise RuntimeError(f"only {len(remote.scheduler.members)} of {workers} workers came")
    finally:
        for process in processes:
            process.wait(30)
    medians = {name: round(statistics.median(each), 4) for name, each in seconds.items()}
    return {**medians, "ratio": round(medians["distributed"] / medians["local"], 4), "workers": workers, "turns": turns}


def _problem(experiment: Experiment, executor: Executor, columns: int) -> Problem:
    dataset = data.load(experiment.data)
    transform = preprocess.fit(experiment.preprocess, dataset.train.images)
    blocks = KernelBlocks(Blocks(task_columns=columns), executor)
    return train._problem(experiment, dataset, transform, blocks, None)


def _step(problem: Problem, method: KIP, step: int) -> tuple[float, tuple[np.ndarray, ...]]:
    """Return the seconds of a step's kernel matrices and gradient, and these."""
    state = problem.natural_support(method.images_per_class)
    batch = problem.target_batch(method.target_batch, step=step)
    began = time.monotonic()
    k_ss, k_ts = problem.blocks.forward(method.kernels[0], state.images, batch.images, source=batch.source)
    gradient = problem.blocks.backward(k_ss, k_ts)
    return time.monotonic() - began, (k_ss, k_ts, gradient)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m kip.server.overhead", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--target", type=int, default=600, help="target images of a step")
    parser.add_argument("--columns", type=int, default=5, help="support columns of a task")
    options = parser.parse_args(arguments)
    kernel = Architecture("ConvNet")
    found = measure(options.workers, options.turns, kernel=kernel, target=options.target, columns=options.columns)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
