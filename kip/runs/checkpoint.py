"""Checkpoints: atomic, checked on reading, and of a size that does not grow with the run.

A checkpoint is one NumPy `.npz` file, `checkpoints/STEP.npz`: host arrays, so that NumPy alone reads it, and the zip
format's checksums tell a truncated or damaged file. It is written aside, synced and renamed. A file that is
whole counts as damaged too where it lacks an array, or where one has another shape, another type or NaN.

Only the two newest are complete, so that a run can go on from them. The others have lost the optimiser's state and what
the method owns (networks, for many methods), and keep what judging and exporting the set needs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from kip.config import to_dict
from kip.data import Data
from kip.errors import CheckpointError, DataError
from kip.experiment import without_former_options
from kip.methods.problem import State
from kip.storage.files import atomic_write
from kip.storage.json_files import is_number
from kip.storage.npz import read_arrays

LOGGER = logging.getLogger(__name__)
HEAVY = ("optimizer", "owned")
"""Parts of a state that only the steps need."""
HEAVY_NAMES = tuple(f".{name}" for name in HEAVY)
LOWEST_LOSS = 5
"""Checkpoints of lowest train loss that are kept for the mean that the paper reports (section A)."""


class Record(NamedTuple):
    """The loop's notes at a checkpoint.

    Attributes:
        step: updates made.
        loss: the train loss of the update that led here; None at step 0.
        validation_accuracy: KRR accuracy on the validation split, a fraction.
    """

    step: int
    loss: float | None
    validation_accuracy: float


class History(NamedTuple):
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
        """The records of lowest train loss, at most 5, lowest first: those whose mean the paper reports."""
        trained = [record for record in self.records if record.loss is not None]
        return sorted(trained, key=lambda record: (record.loss, record.step))[:LOWEST_LOSS]

    def stale(self) -> int:
        """The number of checkpoints since the best."""
        return sum(record.step > self.best.step for record in self.records)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: the run's `checkpoints` folder; made when first written to.
        identity: what a checkpoint must share with the run to be continued (`Experiment.identity`).
    """

    def __init__(self, folder: Path, identity: dict[str, Any]):
        self._folder = folder
        self._identity = identity

    def save(self, state: State, history: History) -> None:
        """Write a checkpoint, remove those no longer needed, and lighten those that no run goes on from.

        Kept: the last two, the best on validation, step 0, and the five of lowest train loss.
        """
        meta = {"identity": self._identity, "records": history.records, "seconds": history.seconds}
        _write(self._path(state.step), meta, {name: np.asarray(leaf) for name, leaf in _leaves(state)})
        steps = self.steps()
        kept = {0, history.best.step, *steps[-2:], *(record.step for record in history.lowest_loss())}
        for step in set(steps) - kept:
            self._path(step).unlink(missing_ok=True)
        for step in steps[-3:-2]:  # the newest of those that are not complete any more
            if step in kept:
                self._lighten(step)

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, rising."""
        return _steps(self._folder)

    def check_identity(self) -> None:
        """Refuse a folder whose newest readable checkpoint is of another configuration, before anything is prepared.

        Raises:
            CheckpointError: if it is.
        """
        for step in reversed(self.steps()):
            try:
                meta, _ = _read(self._path(step))
            except CheckpointError:
                continue
            self._check(self._path(step), meta)
            return

    def forms(self) -> dict[str, Any]:
        """Return the kernels' forms that the newest readable checkpoint names, see `kip.blocks.choice`; {} if none."""
        for step in reversed(self.steps()):
            try:
                meta, _ = _read(self._path(step))
            except CheckpointError:
                continue
            forms = meta["identity"].get("forms", {})
            return forms if isinstance(forms, dict) else {}
        return {}

    def restore(self, step: int) -> tuple[State, History]:
        """Read what judging and exporting need of one checkpoint: the optimiser's state and `owned` are left out.

        Raises:
            CheckpointError: if it is damaged, or of another configuration.
        """
        meta, arrays = _read(self._path(step))
        self._check(self._path(step), meta)
        return _light(step, arrays), _history(meta)

    def _complete(self, step: int, template: State) -> tuple[State, History]:
        """Read a checkpoint that a run can go on from, in the structure of `template`."""
        path = self._path(step)
        meta, arrays = _read(path)
        self._check(path, meta)
        wanted = dict(_leaves(template))
        missing = wanted.keys() - arrays.keys()
        if missing and not any(name.startswith(HEAVY_NAMES) for name in arrays):
            raise CheckpointError(f"checkpoint {path} is not complete", got=f"no {', '.join(sorted(missing)[:3])}")
        if missing:
            raise _damaged(path, f"no {', '.join(sorted(missing)[:3])}")
        for name, leaf in wanted.items():
            _check_like(path, name, arrays[name], np.asarray(leaf))
        state = jax.tree.unflatten(jax.tree.structure(template), [arrays[name] for name in wanted])
        return state._replace(step=step), _history(meta)

    def _lighten(self, step: int) -> None:
        try:
            meta, arrays = _read(self._path(step))
        except CheckpointError:
            return  # the choice of the run's end leaves it out, with a warning
        light = {name: array for name, array in arrays.items() if not name.startswith(HEAVY_NAMES)}
        if len(light) < len(arrays):
            _write(self._path(step), meta, light)

    def _check(self, path: Path, meta: dict[str, Any]) -> None:
        different = sorted(_differences(_of_today(meta["identity"], self._identity), self._identity))
        if different:
            raise CheckpointError(
                f"checkpoint {path} is of another configuration",
                got="; ".join(different),
                remedy=_remedy(meta["identity"], different),
            )

    def without_damaged(self, history: History) -> History:
        """Return the history less the records, of those that the end of a run needs, that cannot be read any more."""
        records = list(history.records)
        for record in {history.best, *history.lowest_loss()}:
            try:
                self.restore(record.step)
            except CheckpointError as error:
                LOGGER.warning("%s It is left out of the choice.", error)
                records.remove(record)
        unchanged = len(records) == len(history.records)
        return history if unchanged else self.without_damaged(history._replace(records=tuple(records)))

    def latest(self, template: State) -> tuple[State, History] | None:
        """Return the newest complete checkpoint that can be read, warning of each that cannot; None if there is none.

        Args:
            template: a state of the right structure, such as the method's step 0.

        Raises:
            CheckpointError: if the newest that can be read is of another configuration.
        """
        for step in reversed(self.steps()):
            try:
                return self._complete(step, template)
            except CheckpointError as error:
                if "another configuration" in error.problem:
                    raise
                LOGGER.warning("%s The checkpoint before it is used.", error)
                if "is not complete" in error.problem:
                    continue
                self._path(step).rename(self._path(step).with_suffix(".damaged"))
        return None

    def _path(self, step: int) -> Path:
        return _path(self._folder, step)


def read(folder: Path, step: int | None = None) -> tuple[State[Any], History]:
    """Read a checkpoint without knowing its method: the state comes without the optimiser's and what the method owns.

    Args:
        folder: a run's `checkpoints` folder.
        step: which; None means the best on validation.

    Raises:
        CheckpointError: if there is none, or it is damaged.
    """
    steps = _steps(folder)
    if not steps or (step is not None and step not in steps):
        kept = ", ".join(map(str, steps)) or "none"
        raise CheckpointError(
            f"no checkpoint of step {step} in {folder}", got=f"checkpoints of steps: {kept}", expected="one of them"
        )
    if step is None:
        step = _history(_read(_path(folder, steps[-1]))[0]).best.step
    meta, arrays = _read(_path(folder, step))
    return _light(step, arrays), _history(meta)


def _path(folder: Path, step: int) -> Path:
    return folder / f"{step:06d}.npz"


def _steps(folder: Path) -> list[int]:
    """Return the steps that have a file in a run's `checkpoints` folder, rising."""
    steps = {int(path.stem) for path in folder.glob("*.npz") if path.stem.isascii() and path.stem.isdecimal()}
    return sorted(step for step in steps if _path(folder, step).exists())


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what a checkpoint says of its run, and its arrays, after what every reader takes for granted was checked.

    Raises:
        CheckpointError: if the file is damaged.
    """
    try:
        arrays = read_arrays(path)
        if ".images" in arrays:  # of an older kip
            arrays[".inputs"] = arrays.pop(".images")
        meta = json.loads(str(arrays.pop("meta", "")))
        if not isinstance(meta["identity"], dict) or not is_number(meta["seconds"]):
            raise TypeError("its identity or its seconds")
        _check_records(meta["records"])
    except DataError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {str(error).rstrip('.')}") from None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _damaged(path, f"no description of its run ({error})") from None
    _check_set(path, arrays)
    return meta, arrays


def _remedy(stored: dict[str, Any], different: list[str]) -> str:
    """Return what to do about a checkpoint of another configuration."""
    anew = "hoose another --out, or remove the folder to start anew."
    if any(one.startswith(("blocks.implementation ", "forms")) for one in different):
        blocks = stored.get("blocks")
        first = blocks.get("implementation", "auto") if isinstance(blocks, dict) else "auto"
        return f"Resume with --blocks.implementation {first} on a device like the first one, or c{anew}"
    return f"C{anew}"


def _check_records(records: Any) -> None:
    """Raise TypeError where a checkpoint's records are not one [step, loss or None, accuracy] for each checkpoint."""
    if not isinstance(records, list) or not records:
        raise TypeError("its records")
    for record in records:
        step, loss, accuracy = record
        if not isinstance(step, int) or not (loss is None or is_number(loss)) or not is_number(accuracy):
            raise TypeError("its records")


def _check_set(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Refuse a checkpoint whose images and labels are no set of its step: without knowing its method."""
    for name, rank in (("step", 0), ("inputs", 4), ("labels", 2), ("class_index", 1), ("statistics", 2)):
        array = arrays.get(f".{name}")
        if array is None:
            raise _damaged(path, f"no {name}")
        if array.ndim != rank or (rank and len(array) != len(arrays[".inputs"])):
            raise _damaged(path, f"{name} of shape {array.shape}")
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise _damaged(path, f"{name} with values that are not finite numbers")
    if int(arrays[".step"]) != int(path.stem):
        raise _damaged(path, f"the state of step {arrays['.step']}")


def _check_like(path: Path, name: str, array: np.ndarray, like: np.ndarray) -> None:
    """Refuse an array that has another shape or type than in the method's first state, or NaN where that has none."""
    if (array.shape, array.dtype) != (like.shape, like.dtype):
        raise _damaged(path, f"{name.lstrip('.')}: {array.dtype} {array.shape}, expected {like.dtype} {like.shape}")
    if array.dtype.kind == "f" and np.isnan(array).any() and not np.isnan(like).any():
        raise _damaged(path, f"{name.lstrip('.')} with NaN")


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"checkpoint {path} is damaged", got=reason)


def _write(path: Path, meta: dict[str, Any], arrays: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, lambda file: np.savez(file, meta=json.dumps(meta), **arrays))


def _light(step: int, arrays: dict[str, np.ndarray]) -> State:
    """Return a state without the optimiser's and what the method owns."""
    names = [name for name in State._fields if name not in ("step", *HEAVY)]
    return State(step=step, **{name: arrays[f".{name}"] for name in names if f".{name}" in arrays})


def _history(meta: dict[str, Any]) -> History:
    return History(tuple(Record(*record) for record in meta["records"]), meta["seconds"])


def _leaves(state: State) -> Iterable[tuple[str, Any]]:
    """Name each array of a state by its place: `.inputs`, `.optimizer[0].mu['images']`."""
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]


def _of_today(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Return an identity with the fields that are known today: later ones of its data set, and no former options."""
    if isinstance(method := theirs.get("method"), dict):
        theirs = {**theirs, "method": without_former_options(method)}
    data, defaults = theirs.get("data"), to_dict(Data())
    if not isinstance(data, dict):
        return theirs
    later = {name: defaults[name] for name in ours.get("data", {}) if name not in data and name in defaults}
    return {**theirs, "data": {**later, **data}}


def _differences(theirs: Any, ours: Any, path: str = "") -> Iterable[str]:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in theirs.keys() | ours.keys():
            yield from _differences(theirs.get(key), ours.get(key), f"{path}.{key}" if path else key)
    elif theirs != ours:
        yield f"{path} was {theirs!r} and is now {ours!r}"
