"""Checkpoints: atomic, checked on reading, and of a size that does not grow with the run.

A checkpoint is one NumPy `.npz` file, `checkpoints/STEP.npz`: small host arrays, so that NumPy alone reads it, and the
zip format's checksums tell a truncated or damaged file. It is written aside, synced and renamed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from kip.distill import State
from kip.errors import CheckpointError
from kip.files import atomic_write

LOGGER = logging.getLogger(__name__)
LOWEST_LOSS = 5
"""Checkpoints of lowest train loss that are kept for the paper's report (section A)."""


class Record(NamedTuple):
    """What the loop notes at each checkpoint.

    Attributes:
        step: updates made.
        loss: the train loss of the update that led here; None at step 0.
        validation_accuracy: KRR accuracy on the validation split, a fraction.
    """

    step: int
    loss: float | None
    validation_accuracy: float


class Progress(NamedTuple):
    """A run's course so far, stored in every checkpoint.

    Attributes:
        records: one for each checkpoint, step 0 first.
        seconds: computing time, over all resumes.
    """

    records: tuple[Record, ...] = ()
    seconds: float = 0.0

    @property
    def best(self) -> Record:
        """The trained record of highest validation accuracy, of equals the earliest; step 0 if it is the only one."""
        return max(self.records, key=lambda record: (record.step > 0, record.validation_accuracy, -record.step))

    def lowest_loss(self) -> list[Record]:
        """The records of lowest train loss, at most 5, lowest first: those of the paper's report."""
        trained = [record for record in self.records if record.loss is not None]
        return sorted(trained, key=lambda record: (record.loss, record.step))[:LOWEST_LOSS]

    def stale(self) -> int:
        """How many checkpoints have passed since the best."""
        return sum(record.step > self.best.step for record in self.records)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: the run's `checkpoints` folder; made when first written to.
        identity: what a checkpoint must share with the run to be continued (`Experiment.identity`).
        template: a state of the right structure, such as the method's step 0.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], template: State):
        self._folder = folder
        self._identity = identity
        self._template = template

    def save(self, state: State, progress: Progress) -> None:
        """Write a checkpoint, then remove those no longer needed.

        Kept: the last two, the best on validation, step 0, and the five of lowest train loss.
        """
        meta = {"identity": self._identity, "records": progress.records, "seconds": progress.seconds}
        arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in _leaves(state)}
        self._folder.mkdir(parents=True, exist_ok=True)
        atomic_write(self._path(state.step), lambda file: np.savez(file, meta=json.dumps(meta), **arrays))
        steps = self.steps()
        kept = {0, progress.best.step, *steps[-2:], *(record.step for record in progress.lowest_loss())}
        for step in set(steps) - kept:
            self._path(step).unlink(missing_ok=True)

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, rising."""
        return sorted(int(path.stem) for path in self._folder.glob("*.npz") if path.stem.isdigit())

    def restore(self, step: int) -> tuple[State, Progress]:
        """Read one checkpoint.

        Raises:
            CheckpointError: if it is damaged, or of another configuration.
        """
        path = self._path(step)
        meta, arrays = _read(path)
        different = sorted(_differences(meta["identity"], self._identity))
        if different:
            raise CheckpointError(
                f"checkpoint {path} is of another configuration",
                got="; ".join(different),
                remedy="Choose another --out, or remove the folder to start anew.",
            )
        names = [name for name, _ in _leaves(self._template)]
        state = jax.tree.unflatten(jax.tree.structure(self._template), [arrays[name] for name in names])
        return state._replace(step=int(state.step)), _progress(meta)

    def without_damaged(self, progress: Progress) -> Progress:
        """Return the progress less the records, of those that the end of a run needs, that cannot be read any more."""
        records = list(progress.records)
        for record in {progress.best, *progress.lowest_loss()}:
            try:
                self.restore(record.step)
            except CheckpointError as error:
                LOGGER.warning("%s It is left out of the choice.", error)
                records.remove(record)
        unchanged = len(records) == len(progress.records)
        return progress if unchanged else self.without_damaged(progress._replace(records=tuple(records)))

    def latest(self) -> tuple[State, Progress] | None:
        """Return the newest checkpoint that can be read, warning of each that cannot; None if there is none.

        Raises:
            CheckpointError: if the newest that can be read is of another configuration.
        """
        for step in reversed(self.steps()):
            try:
                return self.restore(step)
            except CheckpointError as error:
                if "another configuration" in error.problem:
                    raise
                LOGGER.warning("%s The checkpoint before it is used.", error)
                self._path(step).rename(self._path(step).with_suffix(".damaged"))
        return None

    def _path(self, step: int) -> Path:
        return _path(self._folder, step)


def read(folder: Path, step: int | None = None) -> tuple[State, Progress]:
    """Read a checkpoint without knowing its method: the state comes without the optimiser's and what the method owns.

    Args:
        folder: a run's `checkpoints` folder.
        step: which; None means the best on validation.

    Raises:
        CheckpointError: if there is none, or it is damaged.
    """
    steps = sorted(int(path.stem) for path in folder.glob("*.npz") if path.stem.isdigit())
    if not steps or (step is not None and step not in steps):
        kept = ", ".join(map(str, steps)) or "none"
        raise CheckpointError(f"no checkpoint of step {step} in {folder}", got=f"checkpoints of steps: {kept}")
    if step is None:
        step = _progress(_read(_path(folder, steps[-1]))[0]).best.step
    meta, arrays = _read(_path(folder, step))
    fields = {name: arrays[f".{name}"] for name in State._fields if name != "step" and f".{name}" in arrays}
    return State(step=step, **fields), _progress(meta)


def _path(folder: Path, step: int) -> Path:
    return folder / f"{step:06d}.npz"


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            meta = json.loads(str(file["meta"]))
            return meta, {name: file[name] for name in file.files}
    except Exception as error:  # what zipfile and NumPy raise on a damaged file has no end
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from None


def _progress(meta: dict[str, Any]) -> Progress:
    return Progress(tuple(Record(*record) for record in meta["records"]), meta["seconds"])


def _leaves(state: State) -> Iterable[tuple[str, Any]]:
    """Name each array of a state by its place: `.images`, `.optimizer[0].mu['images']`."""
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]


def _differences(theirs: Any, ours: Any, path: str = "") -> Iterable[str]:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in theirs.keys() | ours.keys():
            yield from _differences(theirs.get(key), ours.get(key), f"{path}.{key}" if path else key)
    elif theirs != ours:
        yield f"{path} was {theirs!r} and is now {ours!r}"
