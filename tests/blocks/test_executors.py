"""The contract of every executor, and tiled against whole: values and gradients."""

import importlib
import json
import os
import subprocess
import sys
from typing import Literal

import jax
import numpy as np
import pytest

from kip.blocks import Blocks, Images, KernelBlocks, LocalExecutor, plan, task
from kip.errors import NonFiniteError, ShapeError
from kip.kernels import RBF, Architecture, kernel_function
from kip.precision import float64
from kip.storage.artefacts import digest

EXECUTORS = {
    "local, one device": lambda: LocalExecutor(jax.devices()[:1]),
    "local, all devices": lambda: LocalExecutor(jax.devices()),
}
FC = Architecture("FC", 1)
CONV = Architecture("ConvVec", 1)


@pytest.fixture(params=EXECUTORS)
def executor(request):
    made = EXECUTORS[request.param]()
    with made:
        yield made


def small_plan(num_support, num_target, size):
    return plan(num_support, num_target, 1, size * size, task_columns=size)


class SmallTiles(KernelBlocks):
    """Kernel blocks with tiles, and tasks of so many columns, of a given size, so that sizes around it can be tried."""

    def __init__(self, size, executor, dtype: Literal["float32", "float64"] = "float64"):
        super().__init__(Blocks(dtype=dtype), executor)
        self.size = size

    def _plan_of(self, kernel, support, num_target):
        return small_plan(len(support), num_target, self.size)


def images(rng, count, shape=(4, 4, 2)):
    return rng.standard_normal((count, *shape))


def whole(kernel, support, target, k_ss_bar, k_ts_bar):
    """The plain path: the whole kernel, differentiated by JAX."""
    function = kernel_function(kernel)

    @jax.jit
    def run(support, target, bars):
        matrices, pull = jax.vjp(lambda s: (function(s, s), function(target, s)), support)
        return (*matrices, pull(bars)[0])

    with float64():
        return [np.asarray(a) for a in run(support, target, (k_ss_bar, k_ts_bar))]


@pytest.mark.parametrize("count", [1, 22, 33])
def test_merged_tasks_change_no_bit(rng, monkeypatch, count):
    for name in ("LEAST_ENTRIES", "TASK_BYTES", "PLACES"):
        monkeypatch.setattr(importlib.import_module("kip.blocks.plan"), name, 1)

    class Among(LocalExecutor):
        def backward(self, tasks, cotangents):
            numbers.append(len(tasks))
            return super().backward(tasks, cotangents)

    support, target = (images(rng, number).astype(np.float32) for number in (5, count))
    k_ss_bar, k_ts_bar = rng.standard_normal((5, 5)), rng.standard_normal((count, 5))
    results, numbers = set(), []
    for places in (1, 3, 1000):
        monkeypatch.setattr(Among, "places", places)
        with Among() as among:
            blocks = SmallTiles(2, among)
            k_ss, k_ts = blocks.forward(FC, support, target)
            results.add((k_ss.tobytes(), k_ts.tobytes(), blocks.backward(k_ss_bar, k_ts_bar).tobytes()))
    assert len(results) == 1
    assert count == 1 or numbers[0] < numbers[1] < numbers[2]


# One, a prime, the tile less one, the tile, the tile plus one. Once is enough for the other kernels: what depends on
# the size is the plan, which is the same for every kernel.
@pytest.mark.parametrize(
    ("kernel", "count"),
    [
        *((FC, count) for count in (1, 7, 4)),
        (RBF(), 4),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((FC, 2), (FC, 3), (CONV, 4))),
    ],
)
def test_tiled_values_and_gradients_equal_the_whole_kernels(rng, executor, kernel, count):
    support, target = images(rng, count), images(rng, count + 4)
    k_ss_bar, k_ts_bar = rng.standard_normal((count, count)), rng.standard_normal((count + 4, count))
    blocks = SmallTiles(3, executor)
    k_ss, k_ts = blocks.forward(kernel, support, target)
    gradient = blocks.backward(k_ss_bar, k_ts_bar)
    expected = whole(kernel, support, target, k_ss_bar, k_ts_bar)
    for ours, theirs in zip((k_ss, k_ts, gradient), expected):
        # Where x = z the angle of a ReLU network's kernel is the root of a rounding error: 1e-8 in float64.
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-7)
        assert ours.dtype == np.float64
    np.testing.assert_array_equal(k_ss, k_ss.T)


# A ReLU network's values have rounding errors of 1e-8 where x = z (see above), which a difference divides by its step.
@pytest.mark.parametrize(("kernel", "step", "rtol"), [(RBF(), 1e-5, 1e-7), (CONV, 1e-3, 1e-4)])
@pytest.mark.slow
def test_gradient_agrees_with_finite_differences(rng, executor, kernel, step, rtol):
    support, target = images(rng, 4), images(rng, 5)
    k_ss_bar, k_ts_bar = rng.standard_normal((4, 4)), rng.standard_normal((5, 4))
    blocks = SmallTiles(3, executor)

    def scalar(support):
        k_ss, k_ts = blocks.forward(kernel, support, target)
        return np.vdot(k_ss_bar, k_ss) + np.vdot(k_ts_bar, k_ts)

    direction = rng.standard_normal(support.shape)
    slope = (scalar(support + step * direction) - scalar(support - step * direction)) / (2 * step)
    scalar(support)
    np.testing.assert_allclose(np.vdot(blocks.backward(k_ss_bar, k_ts_bar), direction), slope, rtol=rtol)


@pytest.mark.slow
def test_results_are_the_same_bits_for_any_number_of_devices(rng):
    support, target = (images(rng, count).astype(np.float32) for count in (7, 11))
    bars = rng.standard_normal((7, 7)), rng.standard_normal((11, 7))
    results = []
    for count in range(1, jax.local_device_count() + 1):
        with LocalExecutor(jax.devices()[:count]) as executor:
            blocks = SmallTiles(3, executor, "float32")
            results.append((*blocks.forward(CONV, support, target), blocks.backward(*bars)))
    for other in results[1:]:
        for ours, theirs in zip(other, results[0]):
            np.testing.assert_array_equal(ours, theirs)


def test_every_device_gets_work(rng):
    support = images(rng, 6).astype(np.float32)
    seen = set()

    class Watching(LocalExecutor):
        def _in_order(self, run, tasks):
            def watched(images, *task):
                seen.update(images.support.devices())
                return run(images, *task)

            return super()._in_order(watched, tasks)

    with Watching(jax.devices()) as executor:
        SmallTiles(1, executor, "float32").forward(FC, support, support)
    assert seen == set(jax.devices())


FOUR_DEVICES = """
import json, threading, time
import jax, numpy as np
from kip.blocks import Blocks, KernelBlocks, LocalExecutor, task
from kip.kernels import RBF

MILLISECONDS, TASKS = 20, 40
busy, puts = {}, []
put = jax.device_put

def noting(array, device=None, **named):
    puts.append((np.shape(array), str(device)))
    return put(array, device, **named)

def forward(images, one):
    device = next(iter(images.support.devices()))
    began = time.monotonic()
    time.sleep(MILLISECONDS / 1000 * (1 + one.columns[0] % 3))  # tasks of three lengths
    busy.setdefault(str(device), []).append((began, time.monotonic()))
    return np.zeros(one.shape, np.float32)

task.forward = forward
jax.device_put = noting
images = np.zeros((TASKS, 2, 2, 1), np.float32)
with LocalExecutor(jax.devices()) as executor:
    blocks = KernelBlocks(Blocks(task_columns=1), executor)
    blocks.forward(RBF(), images, images[:7])
    first_step = {device: list(spans) for device, spans in busy.items()}
    first = [shape for shape, _ in puts]
    puts.clear()
    blocks.forward(RBF(), images, images[:7].copy())
    same = [shape for shape, _ in puts]
    puts.clear()
    blocks.forward(RBF(), images, images[:7] + 1)
    other = [shape for shape, _ in puts]
print(json.dumps({"busy": first_step, "first": first, "same": same, "other": other}))
"""


def test_no_device_waits_for_another():
    """Four simulated ones, each with a thread of its own, that take tasks of three lengths as they become free."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", FOUR_DEVICES]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout.splitlines()[-1])
    busy = told["busy"]
    assert len(busy) == 4
    begin = min(spans[0][0] for spans in busy.values())
    end = max(spans[-1][1] for spans in busy.values())
    for device, spans in busy.items():
        share = sum(last - first for first, last in spans) / (end - begin)
        assert share > 0.75, f"{device} computes {share:.0%} of the time"
    support, target = [40, 2, 2, 1], [7, 2, 2, 1]
    assert told["same"] == [support] * 4, "the support images alone, once a device"
    for puts in (told["first"], told["other"]):
        assert sorted(puts) == [target] * 4 + [support] * 4


def test_both_matrices_are_handed_out_together(rng):
    """The few tasks of K_ss, by themselves, would leave most devices without work."""
    handed = []

    class Noting(LocalExecutor):
        def forward(self, tasks):
            handed.append({one.matrix for one in tasks})
            return super().forward(tasks)

    with Noting() as executor:
        SmallTiles(2, executor).forward(FC, images(rng, 3), images(rng, 4))
    assert handed == [{"ss", "ts"}]


def test_targets_that_a_device_holds_give_the_same_bits(rng):
    support, target = (images(rng, count).astype(np.float32) for count in (5, 7))
    with LocalExecutor(jax.devices()) as executor:
        executor._identity = lambda target: digest(target)  # as with several devices
        blocks = SmallTiles(3, executor, "float32")
        results = [blocks.forward(FC, support, one).k_ts for one in (target, target.copy(), target + 1)]
    function = kernel_function(FC)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_allclose(results[2], np.asarray(function(target + 1, support)), rtol=1e-5)


def test_results_come_in_the_order_of_the_tasks(rng, executor):
    support, target = images(rng, 9).astype(np.float32), images(rng, 9).astype(np.float32)
    made = small_plan(9, 9, 2)
    executor.begin(Images(FC, support, target, made.size))
    assert len(made.ts) > 9
    expected = np.asarray(kernel_function(FC)(target, support))
    for block_task, block in zip(made.ts, executor.forward(made.ts), strict=True):
        np.testing.assert_allclose(block, expected[block_task.where], rtol=2e-5)


@pytest.mark.slow
def test_every_executor_gives_the_bits_of_the_plain_task(rng, executor):
    support, target = images(rng, 5).astype(np.float32), images(rng, 6).astype(np.float32)
    made = small_plan(5, 6, 2)
    plain = Images(FC, support, target, made.size)
    executor.begin(plain)
    tasks = [*made.ss, *made.ts]
    bars = [rng.standard_normal(block_task.shape).astype(np.float32) for block_task in tasks]
    for block_task, block in zip(tasks, executor.forward(tasks), strict=True):
        np.testing.assert_array_equal(block, task.forward(plain, block_task))
    for block_task, bar, gradient in zip(tasks, bars, executor.backward(tasks, bars), strict=True):
        np.testing.assert_array_equal(gradient, task.backward(plain, block_task, bar))


def test_a_failing_task_raises_and_the_executor_lives_on(rng, executor):
    support = images(rng, 3).astype(np.float32)
    blocks = SmallTiles(2, executor, "float32")
    blocks.forward(FC, support, support)
    with pytest.raises(ShapeError, match="cotangent of Task"):
        list(executor.backward(small_plan(3, 3, 2).ts, [np.zeros((5, 5))] * 4))
    assert blocks.forward(FC, support, support).k_ts.shape == (3, 3)


def test_closing_twice_is_safe():
    executor = LocalExecutor()
    executor.close()
    executor.close()


def test_rows_give_the_whole_matrix_in_runs(rng, executor, monkeypatch):
    monkeypatch.setattr("kip.blocks.assemble.ROWS_AT_A_TIME", 16)
    support, target = images(rng, 5), images(rng, 61)
    blocks = SmallTiles(2, executor)
    runs = list(blocks.rows(FC, support, target))
    assert len(runs) > 1
    np.testing.assert_allclose(
        np.concatenate([block for _, block in runs]), blocks.forward(FC, support, target).k_ts, rtol=1e-12
    )
    assert [run.start for run, _ in runs] == list(np.cumsum([0] + [len(block) for _, block in runs[:-1]]))


def test_targets_may_be_none_at_all(rng, executor):
    support = images(rng, 3)
    k_ss, k_ts = SmallTiles(2, executor).forward(FC, support, support[:0])
    assert k_ss.shape == (3, 3)
    assert k_ts.shape == (0, 3)


def test_misshapen_images_are_refused_before_anything_runs(rng, executor):
    blocks = KernelBlocks(Blocks(), executor)
    with pytest.raises(ShapeError, match="target images"):
        blocks.forward(FC, images(rng, 2), images(rng, 2, (5, 4, 2)))
    with pytest.raises(ShapeError, match="too small"):
        blocks.forward(Architecture("ConvNet"), images(rng, 2), images(rng, 2))


def test_backward_needs_the_forward_of_its_images(rng, executor):
    blocks = KernelBlocks(Blocks(), executor)
    with pytest.raises(RuntimeError, match="after forward"):
        blocks.backward(np.zeros((2, 2)), np.zeros((2, 2)))
    support = images(rng, 2)
    blocks.forward(FC, support, support)
    list(blocks.rows(FC, support, support))
    with pytest.raises(RuntimeError, match="after forward"):
        blocks.backward(np.zeros((2, 2)), np.zeros((2, 2)))


def test_non_finite_gradient_is_named(rng, executor):
    blocks = KernelBlocks(Blocks(), executor)
    support = images(rng, 2)
    blocks.forward(FC, support, support)
    with pytest.raises(NonFiniteError, match="gradient"):
        blocks.backward(np.full((2, 2), np.nan), np.zeros((2, 2)))
