"""`kip bench gpu`: what an accelerator makes of the kernel engine, in one command of a few minutes.

It measures, on JAX's default device: the engine's form for XLA in blocks of several sizes, with its memory and the
share of two rooflines that it reaches; neural-tangents beside it; products with and without TF32, in time and in
digits; whether repeats give equal bits; and, for the rest of the time, KIP on CIFAR-10 under the ConvNet with its
curve. On a CPU it measures the same form, which is not the one that runs use there.

A roofline is the time that the forward pass would take if its arithmetic ran at the rate of chains of multiply-adds,
or if the bytes that XLA plans to move went at the rate of a copy; both rates are measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kip import data, preprocess
from kip.bench import engine
from kip.bench.engine import OPERATIONS, arithmetic_rate, best_times, position_pairs
from kip.bench.hlo import bytes_moved
from kip.blocks import KernelBlocks
from kip.experiment import Experiment
from kip.judges import Question, Tools
from kip.kernels import Architecture, Products, kernel_function
from kip.kernels.architecture import kernel_named
from kip.machine import versions
from kip.methods.kernel.kip import KIP
from kip.pictures.panels import Panel, Point, save_panels
from kip.preprocess import Preprocess
from kip.runs.setup import problem_of

REPEATS = 3
"""Runs of a program, at the least, of which the fastest counts."""
SAME_BITS_OF = 5
"""Runs whose bits are compared."""
VALIDATED = 1000
"""Validation images that KIP is judged on."""
LARGEST_OF_THEIRS = 16
"""The largest block that neural-tangents computes: larger ones take its memory and the time of the rest."""


def measure(
    *,
    seconds: float,
    kernels: Sequence[str],
    blocks: Sequence[int],
    image: tuple[int, int, int],
    of: data.Data,
    data_dir: Path | None = None,
    progress: Callable[[str], Any] = lambda line: None,
) -> dict[str, Any]:
    """Return the measurements, JSON-ready.

    Args:
        seconds: for all of it. What comes before KIP is not cut short, and leaves KIP the rest.
        kernels: names such as `ConvNet`, `Myrtle5`; neural-tangents stands beside the first.
        blocks: images on each side of a block.
        image: (H, W, C).
        of: the data set of KIP; images of 8x8 pixels or more.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        progress: called with a line as each measurement is there.

    Returns:
        `device` and `rates`; `rows` by kernel and block; `precision` of the first kernel's smallest block, with and
        without TF32; `same_bits`; and `kip`: its curve (step, seconds, loss, batch accuracy) and validation accuracy
        before and after.
    """
    begun = time.monotonic()
    device = jax.devices()[0]
    rates = {"operations_per_second": arithmetic_rate(), "bytes_per_second": copy_rate()}
    results: dict[str, Any] = {
        "device": {"kind": device.device_kind, "count": jax.device_count(), "versions": versions()},
        "rates": rates,
        "rows": [],
    }
    progress(
        f"{device.device_kind}: {rates['operations_per_second']:.3g} operations, {rates['bytes_per_second']:.3g} B/s"
    )
    for name in kernels:
        for block in blocks:
            row = _row(name, image, block, rates, beside=name == kernels[0] and block <= LARGEST_OF_THEIRS)
            results["rows"].append(row)
            progress(
                f"{name} {block}x{block}: {row['forward_us']:.4g} us an entry, with vjp {row['vjp_us']:.4g}, "
                f"{row['memory_kib']:.4g} KiB"
            )
    first = kernel_named(kernels[0])
    assert isinstance(first, Architecture)
    results["precision"] = _precision(first, image, min(blocks))
    results["same_bits"] = _same_bits(first, image, min(blocks))
    progress(f"equal bits over {SAME_BITS_OF} runs: {results['same_bits']}")
    results["kip"] = _kip(of, first, seconds - (time.monotonic() - begun), data_dir, progress)
    return results


def copy_rate() -> float:
    """Return the bytes a second that a device reads and writes: those of y = x + 1 on an array beyond its caches."""
    x = jnp.zeros(1 << 26 if jax.default_backend() != "cpu" else 1 << 24, jnp.float32)
    add = jax.jit(lambda x: x + 1)
    return 2 * x.nbytes / best_times([lambda: add(x)], REPEATS)[0]


def as_markdown(results: dict[str, Any]) -> str:
    """Return the measurements as tables."""
    device, rates, run = results["device"], results["rates"], results["kip"]
    lines = [
        f"# {device['kind']} ({device['count']})",
        "",
        f"{rates['operations_per_second'] / 1e12:.3g} T float32 operations/s, "
        f"{rates['bytes_per_second'] / 1e9:.4g} GB/s, measured.",
        "",
        "| kernel | block | us per entry, forward | with vjp | KiB per entry | of peak, operations | of peak, bytes "
        "| neural-tangents, forward | with vjp |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        theirs = row["neural_tangents"] or {}
        cells = [
            row["kernel"],
            f"{row['block']}x{row['block']}",
            f"{row['forward_us']:.4g}",
            f"{row['vjp_us']:.4g}",
            f"{row['memory_kib']:.4g}",
            _share(row["of_operations"]),
            _share(row["of_bytes"]),
            *(f"{theirs[name]:.4g}" if theirs else "" for name in ("forward_us", "vjp_us")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| products | us per entry, forward | with vjp | relative difference from full float32 |",
        "|---|---|---|---|",
    ]
    for row in results["precision"]:
        lines.append(f"| {row['products']} | {row['forward_us']:.4g} | {row['vjp_us']:.4g} | {row['difference']:.2g} |")
    lines += [
        "",
        f"Equal bits over {SAME_BITS_OF} runs: {'yes' if results['same_bits'] else 'NO'}.",
        "",
        f"KIP on {run['data']}, {run['kernel']}, {run['images']} images, {run['targets']} targets a step: "
        f"{run['steps']} steps in {run['seconds']:.0f} s; validation {100 * run['validation_before']:.1f} % before, "
        f"{100 * run['validation_after']:.1f} % after.",
    ]
    return "\n".join(lines) + "\n"


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw KIP's curve over its seconds.

    Raises:
        OutputError: if the file cannot be written.
    """
    curve = results["kip"]["curve"]
    panels = [
        Panel("loss", "seconds", "loss", {"loss": [Point(row["seconds"], row["loss"]) for row in curve]}),
        Panel(
            "accuracy of the batch",
            "seconds",
            "accuracy, %",
            {"batch": [Point(row["seconds"], 100 * row["batch_accuracy"]) for row in curve]},
        ),
    ]
    save_panels(path, panels, title=f"KIP on {results['kip']['data']}, {results['device']['kind']}")


def _row(
    name: str, image: tuple[int, int, int], block: int, rates: dict[str, float], *, beside: bool
) -> dict[str, Any]:
    architecture = kernel_named(name)
    assert isinstance(architecture, Architecture)
    costs = engine.measure(architecture, ["engine", *(["neural_tangents"] if beside else [])], image, block, REPEATS)
    ours, theirs = costs[0][0], costs[1][0] if beside else None
    entry_s = 1e-6 * ours.forward_us
    bytes_moved = _bytes_moved(architecture, image, block)
    operations = OPERATIONS * position_pairs(architecture, image) if architecture.family != "FC" else None
    return {
        "kernel": name,
        "block": block,
        **ours._asdict(),
        "of_operations": operations and operations / rates["operations_per_second"] / entry_s,
        "of_bytes": bytes_moved and bytes_moved / rates["bytes_per_second"] / entry_s,
        "neural_tangents": None if theirs is None else theirs._asdict(),
    }


def _bytes_moved(architecture: Architecture, image: tuple[int, int, int], block: int) -> float | None:
    """Return the bytes for an entry that XLA plans to move in the forward pass; None where it does not say."""
    shape = jax.ShapeDtypeStruct((block, *image), jnp.float32)
    compiled = jax.jit(kernel_function(architecture, "engine")).lower(shape, shape).compile()
    moved = bytes_moved(compiled.as_text() or "")
    return None if moved is None else moved / block**2


def _precision(architecture: Architecture, image: tuple[int, int, int], block: int) -> list[dict[str, Any]]:
    """Return the cost of an entry and its digits, with products in full float32 and in TF32."""
    rows, expected = [], None
    settings: dict[str, Products] = {"float32": "float32", "TF32": "tf32"}
    for name, products in settings.items():
        cost, values = engine.measure(architecture, ["engine"], image, block, REPEATS, products)[0]
        expected = values if expected is None else expected
        difference = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(values, expected, strict=True))
        rows.append({"products": name, **cost._asdict(), "difference": difference})
    return rows


def _same_bits(architecture: Architecture, image: tuple[int, int, int], block: int) -> bool:
    """Return whether the value and the gradient of a block come out alike, bit for bit, whenever they are computed."""
    program = engine.program(architecture, "engine", image, block)
    runs = [program.value_and_vjp() for _ in range(SAME_BITS_OF)]
    return len({b"".join(np.asarray(part).tobytes() for part in run) for run in runs}) == 1


def _kip(
    of: data.Data, kernel: Architecture, seconds: float, data_dir: Path | None, progress: Callable[[str], Any]
) -> dict[str, Any]:
    """Return the curve of KIP with one image per class, for as many seconds as there are; one step at the least."""
    method = KIP(1, kernels=(kernel,), target_batch=1000, learning_rate=0.04)
    wanted = Experiment(method, data=of, preprocess=Preprocess("zca"))
    dataset = data.load(of, data_dir)
    transform = preprocess.fit(wanted.preprocess, dataset.train.images)
    shown = dataset.validation.images[:VALIDATED]
    question = Question(transform.apply(shown), dataset.validation.labels[: len(shown)], "validation")
    curve: list[dict[str, float]] = []
    with KernelBlocks(wanted.blocks) as blocks:
        problem = problem_of(wanted, dataset, transform, blocks, data_dir)
        tools = Tools(blocks, (problem.inputs, problem.labels), wanted.seed)

        def validation() -> float:
            return float(method.judge.accuracies(state.support, question, tools).mean())

        state = method.init(problem, None)
        before = validation()
        begun = time.monotonic()
        while not curve or time.monotonic() - begun < seconds:
            state, metrics = method.step(problem, None, state)
            row = {"step": state.step, "seconds": round(time.monotonic() - begun, 3)}
            curve.append({**row, "loss": float(metrics["loss"]), "batch_accuracy": float(metrics["batch_accuracy"])})
            if state.step % 20 == 0:
                progress(f"KIP, step {state.step}: batch {100 * curve[-1]['batch_accuracy']:.1f} %")
        after = validation()
    progress(f"KIP: {len(curve)} steps, validation {100 * before:.1f} % before, {100 * after:.1f} % after")
    return {
        "data": of.name,
        "kernel": kernel.label,
        "images": len(state.inputs),
        "targets": method.target_batch,
        "steps": len(curve),
        "seconds": curve[-1]["seconds"],
        "validation_before": before,
        "validation_after": after,
        "curve": curve,
    }


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"
