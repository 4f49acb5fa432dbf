"""The loop that every method runs in: steps, metrics, validation, checkpoints, resume, export, test.

A run's folder, complete and readable after a kill at any moment:

    config.json     the experiment
    metrics.jsonl   one line for each step
    checkpoints/    see `kip.checkpoint`
    distilled.npz   the set of the best checkpoint on validation so far, see `kip.export`
    images.png      before and after; curves.png: loss, accuracy, condition number
    result.json     the figures, once the run has ended

Test images are touched once, after the last step.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from kip import checkpoint, data, export, preprocess, report
from kip.blocks import Executor, KernelBlocks, Source
from kip.checkpoint import Checkpoints, Progress, Record
from kip.data import ClassIndex, Split
from kip.distill import Problem, State
from kip.distill.ahead import Ahead
from kip.errors import ConfigError, NonFiniteError, NotPositiveDefiniteError, OutputError
from kip.evaluate import set_accuracies, trains_networks
from kip.experiment import Experiment
from kip.experiment import load as load_experiment
from kip.files import atomic_write
from kip.preprocess import Transform

SAVE_SECONDS = 300.0
"""Longest time without a saved state: with a slow kernel, states are saved between checkpoints too."""
PICTURE_SECONDS = 60.0
"""Shortest time between two drawings of the pictures."""


class Result(NamedTuple):
    """What a run reached. Accuracies are fractions, times in seconds.

    Attributes:
        test_accuracy: of the exported set, KRR under the run's kernel (the mean over them, if several); or the mean
            over fresh networks trained on it, where the method makes sets for that.
        validation_accuracy: likewise; the exported set is the checkpoint where it was highest.
        initial_test_accuracy: of the natural images that the run started from.
        paper_test_accuracy: mean over the (at most) 5 checkpoints of lowest train loss, as the KIP paper reports; where
            networks are trained, that over them.
        paper_test_spread: the standard deviation over the same.
        paper_steps: those checkpoints.
        exported_step: the step of the exported set.
        steps: updates made.
        seconds: computing time of the steps, validation included, over all resumes.
        peak_memory_mib: largest resident memory of this process.
        out: the run's folder.
    """

    test_accuracy: float
    validation_accuracy: float
    initial_test_accuracy: float
    paper_test_accuracy: float
    paper_test_spread: float
    paper_steps: list[int]
    exported_step: int
    steps: int
    seconds: float
    peak_memory_mib: int
    out: str


def run(
    experiment: Experiment,
    out: Path,
    *,
    data_dir: Path | None = None,
    executor: Executor | None = None,
    show_progress: bool = True,
) -> Result:
    """Run an experiment to its end, resuming if `out` holds a checkpoint of the same configuration.

    Args:
        experiment: what to run.
        out: the run's folder; made if missing.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        executor: where tiles are computed; None means this process. Closed at the end.
        show_progress: whether to draw a progress bar on stderr.

    Raises:
        ConfigError, DataError, ShapeError: before the first compile, if the experiment cannot be run.
        CheckpointError: if `out` belongs to another configuration.
        OutputError: if something cannot be written.
        NonFiniteError, NotPositiveDefiniteError: with the step; the last checkpoint stays.
    """
    with KernelBlocks(experiment.blocks, executor) as blocks:
        run = _Run(experiment, Path(out), data_dir, blocks, show_progress)
        run.train()
        return run.finish()


def export_run(
    run: Path, *, step: int | None = None, out: Path | None = None, data_dir: Path | None = None
) -> dict[str, Any]:
    """Export the distilled set of a run's checkpoint, and return where it is and what it scores.

    Args:
        run: the run's folder.
        step: the checkpoint; None means the best on validation.
        out: the file; None means `distilled.npz` in the run's folder, or `distilled_STEP.npz` for a given step.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.

    Raises:
        ConfigError, CheckpointError: if `run` is no run, or has no such checkpoint.
    """
    if not (run / "config.json").is_file():
        raise ConfigError(f"{run} is not a run's folder", got="no config.json", remedy="`kip distill` makes one.")
    experiment = load_experiment(str(run / "config.json"))
    state, progress = checkpoint.read(run / "checkpoints", step)
    dataset = data.load(experiment.data, data_dir)
    transform = preprocess.fit(experiment.preprocess, dataset.train.images)
    validation_accuracy = {record.step: record.validation_accuracy for record in progress.records}.get(state.step)
    finished = run / "distilled.npz"
    known = export.load(finished).metadata if finished.exists() else {}
    test_accuracy = known.get("test_accuracy") if known.get("step") == state.step else None
    distilled = export.distilled_set(
        experiment,
        transform,
        state,
        train_digest=dataset.train.digest(),
        validation_accuracy=validation_accuracy,
        test_accuracy=test_accuracy,
    )
    out = out or (finished if step is None else run / f"distilled_{step}.npz")
    export.save(out, distilled)
    return {
        "out": str(out),
        "step": state.step,
        "images": len(state.images),
        "validation_accuracy": validation_accuracy,
        "test_accuracy": test_accuracy,
    }


class _Run:
    """One run, from its data to its result."""

    def __init__(
        self, experiment: Experiment, out: Path, data_dir: Path | None, blocks: KernelBlocks, show_progress: bool
    ):
        self.experiment = experiment
        self.out = out
        self.blocks = blocks
        self.show_progress = show_progress
        self.dataset = data.load(experiment.data, data_dir)
        _check(experiment, self.dataset)
        self.transform = preprocess.fit(experiment.preprocess, self.dataset.train.images)
        self.train_digest = self.dataset.train.digest()
        self.problem = _problem(experiment, self.dataset, self.transform, blocks, data_dir)
        self.validation_inputs = self.transform.apply(self.dataset.validation.images)
        self.initial: State = experiment.module.init(experiment.method, self.problem)
        self.checkpoints = Checkpoints(out / "checkpoints", experiment.identity(), self.initial)
        found = self.checkpoints.latest()
        self.state, self.progress = found or (self.initial, Progress())
        config_text = json.dumps(experiment.to_dict(), indent=2) + "\n"
        atomic_write(out / "config.json", lambda file: file.write(config_text.encode()))
        self.metrics = _Metrics(out / "metrics.jsonl", through=self.state.step if found else -1)
        self._saved = self._drawn = self._resumed = time.monotonic()
        self._seconds_before = self.progress.seconds

    def train(self) -> None:
        """Take the steps that are left, to the limit or to early stopping."""
        method, module = self.experiment.method, self.experiment.module
        if not self.progress.records:
            self._checkpoint({"step": 0})
        bar = tqdm(
            total=method.steps, initial=self.state.step, disable=not self.show_progress, unit="step", file=sys.stderr,
            desc=self.experiment.data.name, dynamic_ncols=True,
        )  # fmt: skip
        with bar:
            while self.state.step < method.steps and not self._stale():
                with _naming_the_step(self.state.step + 1):
                    self.state, metrics = module.step(method, self.problem, self.state)
                    row = {"step": self.state.step, **metrics, "seconds": round(self._seconds(), 3)}
                    if self.state.step % self.experiment.checkpoint_every == 0 or self.state.step == method.steps:
                        self._checkpoint(row)
                    else:
                        self.metrics.add(row)
                        if time.monotonic() - self._saved > SAVE_SECONDS:
                            self._save()
                bar.set_postfix_str(self._postfix(metrics), refresh=False)
                bar.update()

    def finish(self) -> Result:
        """Export the best set, test it and the checkpoints of the paper's report, draw the pictures."""
        self.progress = self.checkpoints.without_damaged(self.progress)
        best = self.progress.best
        networks = trains_networks(self.experiment)
        reported = [best.step] if networks else [record.step for record in self.progress.lowest_loss()]
        test_inputs = self.transform.apply(self.dataset.test.images)
        accuracies = {
            step: self._accuracies(self._state_at(step), test_inputs, self.dataset.test, "test")
            for step in tqdm(
                dict.fromkeys([0, best.step, *reported]), desc="test", leave=False, disable=not self.show_progress
            )
        }
        accuracy = {step: float(each.mean()) for step, each in accuracies.items()}
        self._export(accuracy[best.step])
        self._draw()
        over = accuracies[best.step] if networks else np.array([accuracy[step] for step in reported])
        result = Result(
            test_accuracy=accuracy[best.step],
            validation_accuracy=best.validation_accuracy,
            initial_test_accuracy=accuracy[0],
            paper_test_accuracy=float(over.mean()),
            paper_test_spread=float(over.std()),
            paper_steps=sorted(reported),
            exported_step=best.step,
            steps=self.state.step,
            seconds=round(self.progress.seconds, 2),
            peak_memory_mib=_peak_memory_mib(),
            out=str(self.out),
        )
        text = json.dumps(result._asdict(), indent=2) + "\n"
        atomic_write(self.out / "result.json", lambda file: file.write(text.encode()))
        return result

    def _checkpoint(self, row: dict[str, Any]) -> None:
        """Validate, note the row, save, and export if this is the best so far."""
        each = self._accuracies(self.state, self.validation_inputs, self.dataset.validation, "validation")
        accuracy = float(each.mean())
        record = Record(self.state.step, row.get("loss"), accuracy)
        self.progress = self.progress._replace(records=(*self.progress.records, record))
        self.metrics.add({**row, "validation_accuracy": accuracy})
        self._save()
        if self.progress.best == record:
            self._export(None)
        if time.monotonic() - self._drawn > PICTURE_SECONDS:
            self._draw()

    def _save(self) -> None:
        self.progress = self.progress._replace(seconds=self._seconds())
        self.checkpoints.save(self.state, self.progress)
        self._saved = time.monotonic()

    def _export(self, test_accuracy: float | None) -> None:
        best = self.progress.best
        distilled = export.distilled_set(
            self.experiment,
            self.transform,
            self._state_at(best.step),
            train_digest=self.train_digest,
            validation_accuracy=best.validation_accuracy,
            test_accuracy=test_accuracy,
        )
        export.save(self.out / "distilled.npz", distilled)

    def _draw(self) -> None:
        state = self._state_at(self.progress.best.step)
        pixels = [self.transform.invert(each.images, each.statistics) for each in (self.initial, state)]
        method = self.experiment.method
        title = f"{self.experiment.data.name}, {method.label}, {method.name}, step {state.step}"
        report.save_images(
            self.out / "images.png", pixels[1], state.labels, report.shown_class(state.labels, state.class_index),
            before=pixels[0], representations=self.experiment.learns_representations, title=title,
        )  # fmt: skip
        report.save_curves(self.out / "curves.png", self.metrics.rows, reference=self.experiment.reference, title=title)
        self._drawn = time.monotonic()

    def _state_at(self, step: int) -> State:
        if step == self.state.step:
            return self.state
        return self.initial if step == 0 else self.checkpoints.restore(step)[0]

    def _accuracies(
        self, state: State, inputs: np.ndarray, split: Split, part: Literal["validation", "test"]
    ) -> np.ndarray:
        train = self.problem.inputs, self.problem.labels
        return set_accuracies(
            self.experiment, self.blocks, state, inputs, split.labels, part=part, train=train, source=Source(part)
        )

    def _stale(self) -> bool:
        patience = self.experiment.patience
        return patience is not None and self.progress.stale() >= patience

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._resumed

    def _postfix(self, metrics: dict[str, Any]) -> str:
        parts = [f"loss {metrics['loss']:.4g}"] if "loss" in metrics else []
        if "batch_accuracy" in metrics:
            parts.append(f"batch {100 * metrics['batch_accuracy']:.1f} %")
        parts.append(f"validation {100 * self.progress.records[-1].validation_accuracy:.1f} %")
        return ", ".join(parts)


class _Metrics:
    """The lines of metrics.jsonl; those after the resumed step are dropped, for they will be written again."""

    def __init__(self, path: Path, through: int):
        self._path = path
        self.rows: list[dict[str, Any]] = [row for row in self._read() if row["step"] <= through]
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        atomic_write(path, lambda file: file.write(text.encode()))

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise OutputError(
                f"cannot write {self._path}",
                got=error.strerror,
                remedy="Make room and run the same command again: it resumes from the last checkpoint.",
            ) from error

    def _read(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        rows = []
        for line in self._path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:  # a line cut short by a kill
                break
        return rows


@contextlib.contextmanager
def _naming_the_step(step: int) -> Iterator[None]:
    """Add the step to a numeric error. The state that failed is not saved: the last checkpoint stays the last."""
    try:
        yield
    except (NonFiniteError, NotPositiveDefiniteError) as error:
        problem = f"step {step}: {error.problem}"
        raise type(error)(problem, got=error.got, expected=error.expected, remedy=error.remedy) from None


def _check(experiment: Experiment, dataset: data.Dataset) -> None:
    """Refuse, before anything is compiled, what the data set cannot give."""
    method = experiment.method
    _, height, width, channels = dataset.train.images.shape
    if not len(dataset.validation.labels):
        raise ConfigError(
            "data.validation: a run chooses its checkpoint on validation images",
            got="none",
            expected="at least one",
            remedy="Hold out some train images; by default a tenth, at most 5000.",
        )
    for kernel in method.kernels:
        kernel.check_images(height, width)
    smallest = int(np.bincount(dataset.train.labels, minlength=dataset.num_classes).min())
    target_batch = getattr(method, "target_batch", None)
    other_images = getattr(method, "base", None) is not None
    images_per_class = getattr(method, "images_per_class", None)
    per_class: dict[str, int] = {}
    if images_per_class is not None and not other_images:
        per_class["method.images_per_class"] = images_per_class
    if target_batch is not None and target_batch != len(dataset.train.labels):
        per_class["method.target_batch"] = -(-target_batch // dataset.num_classes)
    for name, wanted in per_class.items():
        if wanted > smallest:
            raise ConfigError(
                f"{name} is larger than a class: the smallest of {dataset.name!r} has {smallest} train images",
                got=f"{wanted} images a class",
                expected=f"at most {smallest}",
                remedy="Ask for fewer, or hold out fewer validation images (data.validation).",
            )
    if experiment.augment.policy.startswith("autoaugment") and channels != 3:
        raise ConfigError(
            f"augment.policy {experiment.augment.policy!r} for the data set {dataset.name!r}",
            got=f"{channels} channel",
            expected="3 channels",
            remedy="Use rotate_shift for grey images.",
        )


def _problem(
    experiment: Experiment, dataset: data.Dataset, transform: Transform, blocks: KernelBlocks, data_dir: Path | None
) -> Problem:
    train = dataset.train
    base = getattr(experiment.method, "base", None)
    return Problem(
        pixels=train.images,
        inputs=transform.apply(train.images),
        labels=train.labels,
        num_classes=dataset.num_classes,
        classes=ClassIndex(train.labels, dataset.num_classes),
        transform=transform,
        augment=experiment.augment,
        blocks=blocks,
        seed=experiment.seed,
        base=None if base is None else data.load(data.Data(base), data_dir).train,
        ahead=Ahead(),
    )


def _peak_memory_mib() -> int:
    """The process's largest resident memory. Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> (20 if sys.platform == "darwin" else 10)
