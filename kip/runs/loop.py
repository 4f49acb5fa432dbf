"""The loop that every method runs in: steps, metrics, validation, checkpoints, resume, export, test.

A run's folder, which `kip.runs.folder` describes, is complete and readable after a kill at any moment. Test images are
touched once, after the last step. States stay on their device between steps; the loop copies them to the host to save
and to export.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from kip import data, machine, preprocess, sets
from kip.blocks import Executor, KernelBlocks, Source, choice
from kip.data import Split
from kip.errors import NonFiniteError, NotPositiveDefiniteError, OutputError
from kip.experiment import Experiment
from kip.judges import Judge, Question, Tools, by_class
from kip.judges.judge import Part, deviation
from kip.methods.contract import Metrics
from kip.methods.problem import State
from kip.pictures.appearance import shown_class, title_of
from kip.pictures.curves import save_curves
from kip.pictures.images import save_images
from kip.preprocess import saved
from kip.progress import BOARD, can_draw, counted, inner_stage, progress_bar, stage
from kip.runs import folder, forecast, stopping
from kip.runs.callbacks import Callback, Callbacks
from kip.runs.checkpoint import Checkpoints, History, Record
from kip.runs.judging import judging
from kip.runs.setup import check_data, fitted, problem_of
from kip.runs.stopping import Stopped
from kip.sets.distilled import DistilledSet, Origin
from kip.storage.artefacts import Store
from kip.storage.files import atomic_write, remove_leftovers
from kip.storage.images import Images
from kip.storage.json_files import read_rows
from kip.storage.locks import sole_writer

T = TypeVar("T")

LOGGER = logging.getLogger(__name__)
SAVE_SECONDS = 300.0
"""Longest time without a saved state: with a slow kernel, states are saved between checkpoints too."""
PICTURE_SECONDS = 60.0
"""Shortest time between two drawings of the pictures."""


class Result(NamedTuple):
    """The result of a run. Accuracies are fractions, times in seconds.

    Attributes:
        test_accuracy: the exported set's accuracy on test images: that of KRR under the run's kernel (the mean over its
            kernels, if several), or the mean over fresh networks trained on the set, where the method makes sets for
            that.
        validation_accuracy: the same on validation images. The exported set is the checkpoint where it was highest, by
            the shorter training that checkpoints are judged by (`Experiment.judging_share`).
        initial_test_accuracy: the test accuracy of the natural images that the run started from, labelled by their
            classes; None where they have no class, being of another data set.
        paper_test_accuracy: the mean test accuracy over the (at most) 5 checkpoints of lowest train loss, as the KIP
            paper reports; where networks are trained, the mean over these networks.
        paper_test_spread: the standard deviation (n - 1) over the same; 0 for one.
        paper_steps: the steps of those checkpoints.
        exported_step: the step of the exported set.
        steps: updates made.
        seconds: computing time of the steps, validation included, over all resumes.
        peak_memory_mib: largest resident memory of this process; None where the system does not say.
        out: the run's folder.
        class_test_accuracies: the exported set's accuracy on the test images of each class, in the order of the
            classes; None for a class without a test image.
    """

    test_accuracy: float
    validation_accuracy: float
    initial_test_accuracy: float | None
    paper_test_accuracy: float
    paper_test_spread: float
    paper_steps: list[int]
    exported_step: int
    steps: int
    seconds: float
    peak_memory_mib: int | None
    out: str
    class_test_accuracies: list[float | None]


def run(
    experiment: Experiment,
    out: Path,
    *,
    data_dir: Path | None = None,
    executor: Executor | None = None,
    callbacks: Sequence[Callback] = (),
    show_progress: bool = True,
) -> Result:
    """Run an experiment to its end, resuming if `out` holds a checkpoint of the same configuration.

    Args:
        experiment: what to run.
        out: the run's folder; made if missing.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        executor: where tiles are computed; None means this process. Closed at the end.
        callbacks: are told of rows of metrics, new best sets and the result; see `kip.runs.callbacks`.
        show_progress: whether to draw a progress bar on stderr.

    Raises:
        ConfigError, DataError, ShapeError: before the first compile, if the experiment cannot be run.
        CheckpointError: if `out` belongs to another configuration.
        OutputError: if something cannot be written, or if another process writes to `out`.
        NonFiniteError, NotPositiveDefiniteError: with the step; the last checkpoint stays.
        KeyboardInterrupt, Stopped: after the last whole step was saved; see `kip.runs.stopping`.
    """
    given = _Given(None, data_dir, executor, tuple(callbacks), show_progress, True)
    return _run(experiment, out, given, lambda run: run.finish())


def run_on(
    dataset: data.Dataset,
    experiment: Experiment,
    out: Path,
    *,
    callbacks: Sequence[Callback] = (),
    show_progress: bool = True,
    has_pictures: bool = True,
) -> DistilledSet:
    """Run an experiment on a data set in memory, as `run` does; return the best set.

    It is tested if the data set has test images. Without them there is no result, and `result.json` is not written.

    Args:
        dataset: the data set. `experiment.data` must tell it from others, for a folder resumes by the configuration.
        experiment: what to run.
        out: the run's folder; made if missing.
        callbacks: as in `run`.
        show_progress: as in `run`.
        has_pictures: whether the folder gets its pictures.

    Raises: as `run`.
    """
    given = _Given(dataset, None, None, tuple(callbacks), show_progress, has_pictures)

    def finish(run: _Run) -> DistilledSet:
        if len(dataset.test.labels):
            run.finish()
            return sets.load(out / folder.DISTILLED)
        return run.finish_untested()

    return _run(experiment, out, given, finish)


class _Given(NamedTuple):
    """The arguments of a run beside its experiment and its folder; see `run` and `run_on`."""

    dataset: data.Dataset | None
    data_dir: Path | None
    executor: Executor | None
    callbacks: tuple[Callback, ...]
    show_progress: bool
    has_pictures: bool


def _run(experiment: Experiment, out: Path, given: _Given, finish: Callable[[_Run], T]) -> T:
    with KernelBlocks(experiment.blocks, given.executor) as blocks, sole_writer(out) as lock:
        for place in (lock.path.parent, *(lock.path.parent / name for name in (folder.CHECKPOINTS, folder.ARTEFACTS))):
            remove_leftovers(place, before=lock.since)
        with contextlib.suppress(OSError):
            (lock.path.parent / folder.STOPPED).unlink()
        stopping.rearm()
        machine.forget_programs_near_limit()
        run = None
        title = f"{experiment.data.name}, {experiment.method.name}"
        try:
            with stage(title, shown=given.show_progress and not BOARD.is_going_on, names=False):
                run = _Run(experiment, Path(out), blocks, given)
                run.forecasts = given.executor is None
                run.train()
                return finish(run)
        except (KeyboardInterrupt, Stopped) as stop:
            _note_stop(stop, run, Path(out))
            raise


class _Run:
    """One run, from its data to its result."""

    def __init__(self, experiment: Experiment, out: Path, blocks: KernelBlocks, given: _Given):
        data_dir, show_progress = given.data_dir, given.show_progress
        self.dataset = given.dataset or data.load(experiment.data, data_dir)
        self.experiment = experiment = fitted(experiment, self.dataset)
        self.origin = Origin.of(experiment)
        self.out = out
        self.blocks = blocks
        self.callback = callback = Callbacks(given.callbacks)
        self.has_pictures = given.has_pictures
        self.show_progress = show_progress and can_draw()
        self.forecasts = False
        """True if the time of the steps is reported before they begin."""
        check_data(experiment, self.dataset)
        self.transform = preprocess.fit(experiment.preprocess, self.dataset.train.images)
        self.train_digest = self.dataset.train.digest()
        kernels, images = experiment.method.needs.kernels, self.dataset.train.images
        before = Checkpoints(out / folder.CHECKPOINTS, {}).forms()
        forms = choice.of_run(experiment.blocks, kernels, tuple(images.shape[1:]), before)
        blocks.continue_in(forms.get("forms", {}))
        self.checkpoints = Checkpoints(out / folder.CHECKPOINTS, {**experiment.identity(), **forms})
        self.checkpoints.check_identity()
        self.problem = problem_of(experiment, self.dataset, self.transform, blocks, data_dir)
        self.validation_inputs = self.transform.apply(self.dataset.validation.images)
        store = Store(out / folder.ARTEFACTS, show_progress=show_progress)
        self.prepared: Any = experiment.method.prepare(self.problem, store)
        self.initial: State[Any] = experiment.method.init(self.problem, self.prepared)
        resumed = self.checkpoints.latest(self.initial)
        self.state, self.history = resumed or (self.initial, History())
        self.judges = judging(experiment, size=len(self.initial.inputs), num_classes=self.dataset.num_classes)
        config_text = json.dumps(experiment.to_dict(), indent=2) + "\n"
        atomic_write(out / folder.CONFIG, lambda file: file.write(config_text.encode()))
        folder.keep_place_of_data(out, data_dir)
        saved.save(self.transform, out / folder.DISTILLED)
        self._write_set(folder.INITIAL, self.initial, None, None)
        self.metrics = _Metrics(out / folder.METRICS, through=self.state.step if resumed else -1)
        self._first_step: tuple[int, float] | None = None
        """The first step of this process and when it ended, until the costs are told."""
        self._whole = self.state, self.history
        """The state after the last step of which all is noted, and the history then."""
        self._saved = self._resumed = time.monotonic()
        self._drawn = -math.inf if not resumed else self._saved  # a new run shows its first picture at once
        self._seconds_before = self.history.seconds
        callback.on_begin(experiment, out)

    def train(self) -> None:
        """Take the steps that are left, to the limit or to early stopping."""
        method = self.experiment.method
        if self.show_progress and self.forecasts:
            with inner_stage("timing one block, which is compiled first"):
                told = forecast.forecast(self.experiment, self.problem, self.state.step)
            forecast.tell(told)
        bar = progress_bar(
            method.steps,
            self.experiment.data.name,
            shown=self.show_progress,
            unit=" steps",
            initial=self.state.step,
            stays=True,
            delay=0,
        )
        with bar:
            if not self.history.records:
                self._checkpoint({"step": 0})
            self._whole = self.state, self.history
            bar.note("compiling the first step")
            while self.state.step < method.steps and not self._stale():
                with _naming_the_step(self.state.step + 1):
                    self.state, metrics = method.step(self.problem, self.prepared, self.state)
                    row = {"step": self.state.step, **metrics, "seconds": round(self._seconds(), 3)}
                    if self.state.step % self.experiment.checkpoint_every == 0 or self.state.step == method.steps:
                        self._checkpoint(row)
                    else:
                        self._add(row)
                        if time.monotonic() - self._saved > SAVE_SECONDS:
                            self._save()
                if bar.done == bar.initial:
                    self._first_step = self.state.step, time.monotonic()
                self._whole = self.state, self.history
                stopping.check()
                bar.note(self._postfix(metrics))
                bar.update()

    def save_whole(self) -> int | None:
        """Save the state after the last whole step, if it is not saved; return the step, None where none was taken."""
        self.state, self.history = self._whole
        if not self.history.records:
            return None
        if self.state.step not in self.checkpoints.steps():
            self._save()
        return self.state.step

    def finish(self) -> Result:
        """Export the best set, test it and the checkpoints of lowest train loss, draw the pictures."""
        self.history = self.checkpoints.without_damaged(self.history)
        best = self.history.best
        draws_networks = self.judges.whole.drawn is not None
        reported = [best.step] if draws_networks else [record.step for record in self.history.lowest_loss()]
        states: dict[Any, State[Any]] = {step: self._state_at(step) for step in (best.step, *reported)}
        natural = self.experiment.method.natural(self.initial, states[best.step])
        if natural is not None:
            states["natural"] = natural
        test_inputs = self.transform.apply(self.dataset.test.images)
        are_right = {
            name: self._are_right(self.judges.whole, state, test_inputs, self.dataset.test, "test")
            for name, state in counted(states.items(), len(states), "sets", shown=self.show_progress)
        }
        accuracies = {name: right.mean(axis=1) for name, right in are_right.items()}
        accuracy = {name: float(scores.mean()) for name, scores in accuracies.items()}
        validation_accuracy = best.validation_accuracy
        if self.judges.is_brief:
            right = self._validated(self.judges.whole, states[best.step])
            validation_accuracy = float(right.mean(axis=1).mean())
        self._export(validation_accuracy, accuracy[best.step])
        self._draw()
        paper = accuracies[best.step] if draws_networks else np.array([accuracy[step] for step in reported])
        result = Result(
            test_accuracy=accuracy[best.step],
            validation_accuracy=validation_accuracy,
            initial_test_accuracy=accuracy.get("natural"),
            paper_test_accuracy=float(paper.mean()),
            paper_test_spread=deviation(paper),
            paper_steps=sorted(reported),
            exported_step=best.step,
            steps=self.state.step,
            seconds=round(self.history.seconds, 2),
            peak_memory_mib=machine.peak_memory_mib(),
            out=str(self.out),
            class_test_accuracies=by_class(are_right[best.step], self.dataset.test.labels, self.dataset.num_classes),
        )
        text = json.dumps(result._asdict(), indent=2) + "\n"
        atomic_write(self.out / folder.RESULT, lambda file: file.write(text.encode()))
        self.callback.on_end(result)
        return result

    def finish_untested(self) -> DistilledSet:
        """Export the best set and draw the pictures, where there are no test images."""
        self.history = self.checkpoints.without_damaged(self.history)
        validation_accuracy = self.history.best.validation_accuracy
        if self.judges.is_brief:
            right = self._validated(self.judges.whole, self._state_at(self.history.best.step))
            validation_accuracy = float(right.mean(axis=1).mean())
        self._draw()
        return self._export(validation_accuracy, None)

    def _add(self, row: dict[str, Any]) -> None:
        self.metrics.add(row)
        self.callback.on_row(row)

    def _checkpoint(self, row: dict[str, Any]) -> None:
        """Validate, note the row, save, and export if this is the best so far."""
        began = time.monotonic()
        right = self._validated(self.judges.during, self.state)
        self._tell_costs(time.monotonic() - began)
        accuracy = float(right.mean(axis=1).mean())
        record = Record(self.state.step, row.get("loss"), accuracy)
        self.history = self.history._replace(records=(*self.history.records, record))
        self._add({**row, "validation_accuracy": accuracy})
        self._save()
        if self.history.best == record:
            self.callback.on_export(self._export(accuracy, None))
        if time.monotonic() - self._drawn > PICTURE_SECONDS:
            self._draw()

    def _save(self) -> None:
        self.history = self.history._replace(seconds=self._seconds())
        self.checkpoints.save(self.state, self.history)
        self._saved = time.monotonic()

    def _export(self, validation_accuracy: float, test_accuracy: float | None) -> DistilledSet:
        state = self._state_at(self.history.best.step)
        return self._write_set(folder.DISTILLED, state, validation_accuracy, test_accuracy)

    def _validated(self, judge: Judge, state: State) -> np.ndarray:
        return self._are_right(judge, state, self.validation_inputs, self.dataset.validation, "validation")

    def _tell_costs(self, judging: float) -> None:
        """Say once what the steps and their judging will take: at the second checkpoint, as the first one compiles."""
        if self._first_step is None or not self.show_progress:
            return
        (step, began), self._first_step = self._first_step, None
        if (made := self.state.step - step) > 0:
            a_step = (time.monotonic() - judging - began) / made
            left = self.experiment.method.steps - self.state.step
            every = self.experiment.checkpoint_every
            sets = 2 if self.experiment.method.natural(self.initial, self.state) is not None else 1
            end = self.judges.seconds("test", judging)
            forecast.tell_costs(a_step, left, every, judging, 0.0 if end is None else end * sets)

    def _write_set(
        self, name: str, state: State, validation_accuracy: float | None, test_accuracy: float | None
    ) -> DistilledSet:
        distilled = sets.distilled_set(
            self.origin,
            self.transform,
            state,
            train_digest=self.train_digest,
            validation_accuracy=validation_accuracy,
            test_accuracy=test_accuracy,
            class_names=self.dataset.class_names,
        )
        sets.save(self.out / name, distilled)
        return distilled

    def _draw(self) -> None:
        if not self.has_pictures:
            return
        state = self._state_at(self.history.best.step)
        before, after = (
            self.transform.invert(np.asarray(shown.inputs), shown.statistics) for shown in (self.initial, state)
        )
        method, labels = self.experiment.method, np.asarray(state.labels)
        title = title_of(f"{self.experiment.data.name}, {method.label}, {method.name}, step {state.step}")
        save_images(
            self.out / "images.png",
            after,
            labels,
            shown_class(labels, state.class_index),
            before=before,
            representations=method.labels_are == "representations",
            title=title,
            class_names=self.dataset.class_names,
        )
        save_curves(self.out / "curves.png", self.metrics.rows, reference=self.experiment.reference, title=title)
        self._drawn = time.monotonic()

    def _state_at(self, step: int) -> State:
        if step == self.state.step:
            return self.state
        return self.initial if step == 0 else self.checkpoints.restore(step)[0]

    def _are_right(self, judge: Judge, state: State, inputs: Images, split: Split, part: Part) -> np.ndarray:
        question = Question(inputs, split.labels, part, Source(part))
        problem = self.problem
        train = problem.inputs, problem.labels
        tools = Tools(self.blocks, train, self.experiment.seed, problem.mirror_keeps_class, self.show_progress)
        with inner_stage(part):
            return judge.are_right(state.support, question, tools)

    def _stale(self) -> bool:
        patience = self.experiment.patience
        return patience is not None and self.history.stale() >= patience

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._resumed

    def _postfix(self, metrics: Metrics) -> str:
        """Return the step's figures; those that a narrow terminal cuts off stand last."""
        parts = [f"validation {100 * self.history.records[-1].validation_accuracy:.1f} %"]
        if "loss" in metrics:
            parts.append(f"loss {metrics['loss']:.4g}")
        if "batch_accuracy" in metrics:
            parts.append(f"batch {100 * metrics['batch_accuracy']:.1f} %")
        return ", ".join(parts)


class _Metrics:
    """The lines of metrics.jsonl; those after the resumed step are dropped, for they will be written again."""

    def __init__(self, path: Path, through: int):
        self._path = path
        self.rows: list[dict[str, Any]] = [row for row in read_rows(path) if row["step"] <= through]
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
                remedy="Check that the folder is there and the disk has room. The same command goes on from the last "
                "checkpoint.",
            ) from error


def _note_stop(stop: KeyboardInterrupt | Stopped, run: _Run | None, out: Path) -> None:
    """Save what a run that is stopped has reached, and who stopped it, for `kip status`."""
    signal = stop.name if isinstance(stop, Stopped) else "SIGINT"
    try:
        step = None if run is None else run.save_whole()
        if (out / folder.CONFIG).is_file():
            text = json.dumps({"signal": signal, "step": step}) + "\n"
            atomic_write(out / folder.STOPPED, lambda file: file.write(text.encode()))
    except OutputError as error:
        LOGGER.warning("the last steps are lost: %s", error)
        return
    if isinstance(stop, Stopped):
        stop.step = step


@contextlib.contextmanager
def _naming_the_step(step: int) -> Iterator[None]:
    """Add the step to a numeric error. The state that failed is not saved: the last checkpoint stays the last."""
    try:
        yield
    except (NonFiniteError, NotPositiveDefiniteError) as error:
        problem = f"step {step}: {error.problem}"
        raise type(error)(problem, got=error.got, expected=error.expected, remedy=error.remedy) from None
