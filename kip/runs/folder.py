"""A run's folder: the names of its files, and what they say of the run.

config.json     the experiment
data.json       where the data set lay, on the machine of the run
metrics.jsonl   one line for each step
checkpoints/    see `kip.runs.checkpoint`
artefacts/      what the method prepared, see `kip.storage.artefacts`
initial.npz     the natural images that the run started from; the format is that of distilled.npz
distilled.npz   the set of the best checkpoint on validation so far, see `kip.sets.distilled`
preprocess.npz  with ZCA: the whitening, for new images; see `kip.preprocess.saved`
images.png      before and after; curves.png: loss, accuracy, condition number
result.json     the figures, once the run has ended
stopped.json    the signal that stopped the run, and the step that was saved then; the next start removes it
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from kip import data, experiment, preprocess, sets
from kip.data.sources import data_folder
from kip.errors import ConfigError, KipError, printable
from kip.experiment import Experiment
from kip.preprocess import Transform, saved
from kip.runs import checkpoint
from kip.sets import cards, formats
from kip.sets.distilled import DistilledSet, Origin
from kip.storage.files import atomic_write
from kip.storage.json_files import read_object

CONFIG, METRICS, CHECKPOINTS, ARTEFACTS = "config.json", "metrics.jsonl", "checkpoints", "artefacts"
PLACE = "data.json"
INITIAL, DISTILLED, RESULT, STOPPED = "initial.npz", "distilled.npz", "result.json", "stopped.json"


def check(run: Path) -> None:
    """Refuse a path that is no run's folder.

    Raises:
        ConfigError: if it has no config.json.
    """
    if not (run / CONFIG).is_file():
        raise ConfigError(f"{run} is not a run's folder", got=f"no {CONFIG}", remedy="`kip distill` makes one.")


def is_finished(run: Path, wanted: Experiment) -> bool:
    """Return whether a folder holds the result of just this experiment, apart from its published reference.

    A field that a run from before the field existed does not have is taken to have its default.
    """
    if read_object(run / RESULT, ["test_accuracy"]) is None or not (run / DISTILLED).is_file():
        return False
    known, expected = read_object(run / CONFIG) or {}, wanted.to_dict()
    with contextlib.suppress(KipError):  # a kernel of the user's own is not loaded for this: as it is written counts
        known = experiment.load(str(run / CONFIG)).to_dict()
    return known | {"reference": None} == expected | {"reference": None}


def origin(run: Path) -> Origin:
    """Return what the sets of a run say of its experiment, without its method's class where a set says it.

    Raises:
        ConfigError: if `run` is no run.
        DataError: if its set cannot be read.
    """
    check(run)
    for name in (DISTILLED, INITIAL):
        if (run / name).is_file():
            return sets.load(run / name).origin
    return Origin.of(experiment.load(str(run / CONFIG)))


def name(path: Path) -> str:
    """Return what tables call a set: its run's name, or its file's, escaped by `kip.errors.printable`."""
    if path.is_dir():
        return printable(path.resolve().name)
    return printable(path.parent.name if path.name == DISTILLED else path.stem)


def names(paths: Sequence[Path]) -> list[str]:
    """Return what a table calls several sets: their names, and with their folder's where two have the same."""
    short = [name(path) for path in paths]
    return [
        alone if short.count(alone) == 1 else printable(str(path if path.is_dir() else path.with_suffix("")))
        for path, alone in zip(paths, short)
    ]


def keep_place_of_data(run: Path, given: Path | None) -> None:
    """Note in a run's folder where its data set lies, for the commands that need the data set later.

    Raises:
        OutputError: if the note cannot be written.
    """
    place = data_folder(given)
    if place is not None:
        text = json.dumps({"data_dir": str(place.absolute())})
        atomic_write(run / PLACE, lambda file: file.write(text.encode()))


def place_of_data(paths: Path | Sequence[Path], given: Path | None = None) -> Path | None:
    """Return where the data of sets lie: the folder that is given, or the first that a run has noted and is there.

    Args:
        paths: runs' folders, and files of sets, which may lie in such a folder.
        given: what the user says; it comes first.

    Returns:
        The folder; None where nothing is known, and $KIP_DATA_DIR counts.
    """
    places = [] if given is not None else [paths] if isinstance(paths, Path) else paths
    for path in (place for place in places if not cards.is_shipped(place)):
        known = (read_object((path if path.is_dir() else path.parent) / PLACE) or {}).get("data_dir")
        if isinstance(known, str) and known and Path(known).is_dir():
            return Path(known)
    return given


def class_names(run: Path) -> list[str]:
    """Return the names of the classes of a run's set; none where it does not say, or cannot be read."""
    try:
        return sets.load(run / DISTILLED).class_names
    except KipError:
        return []


def read_sets(path: Path, checkpoints: Sequence[int | None] = (), data_dir: Path | None = None) -> list[DistilledSet]:
    """Return the set of a file, of a run, or those of a run's checkpoints.

    Args:
        path: an .npz file, a run's folder, or the name of a set that comes with kip.
        checkpoints: steps of the run, None for the best on validation; empty: the exported set.
        data_dir: where `NAME.npz` is, if not where the run had it or in $KIP_DATA_DIR; needed for checkpoints only.

    Raises:
        ConfigError: if checkpoints are asked of a file, or the folder is no run.
        DataError: if the set cannot be read.
        CheckpointError: if the run has no checkpoint of such a step.
    """
    if not checkpoints:
        return [sets.load(path / DISTILLED if path.is_dir() else path)]
    of_run = origin(path)
    dataset = data.load(of_run.data, place_of_data(path, data_dir))
    transform = preprocess.fit(of_run.preprocess, dataset.train.images)
    digest = dataset.train.digest()
    return [_of_checkpoint(path, step, of_run, transform, digest, dataset.class_names) for step in checkpoints]


def _of_checkpoint(
    run: Path,
    step: int | None,
    of_run: Origin,
    transform: Transform,
    train_digest: str,
    class_names: Sequence[str],
) -> DistilledSet:
    """Return the set of one of a run's checkpoints."""
    state, history = checkpoint.read(run / CHECKPOINTS, step)
    accuracies = {record.step: record.validation_accuracy for record in history.records}
    return sets.distilled_set(
        of_run,
        transform,
        state,
        train_digest=train_digest,
        validation_accuracy=accuracies.get(state.step),
        test_accuracy=None,
        class_names=class_names,
    )


def export_run(
    run: Path,
    *,
    step: int | None = None,
    form: formats.Format = "npz",
    out: Path | None = None,
    data_dir: Path | None = None,
) -> dict[str, object]:
    """Export the distilled set of a run's checkpoint, or a set that is there; return where it is and what it scores.

    Args:
        run: the run's folder, a set's file, or the name of a set that comes with kip.
        step: the checkpoint; None means the best on validation.
        form: the format.
        out: what is written; None means in the run's folder, or beside the file: `distilled`, or `distilled_STEP` for a
            given step, and the format's ending.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.

    Raises:
        ConfigError, CheckpointError: if `run` is no run, or has no such checkpoint.
        DataError: if it is a file that is no set.
        OutputError: if the set cannot be written.
    """
    path = out or _exported(run, step, form)
    run = cards.resolved(run)
    if run.is_file():
        if step is not None:
            raise ConfigError(f"--step with {run}", got=step, expected="a run's folder, which has checkpoints")
        if path.resolve() == run.resolve():
            raise ConfigError(f"--format npz of {run}", got="a set's file", remedy="Name another --format, or --out.")
        distilled = sets.load(run)
    else:
        distilled, transform = _of_run(run, step, data_dir)
        if form == "npz":
            saved.save(transform, path)
    if form == "npz":
        sets.save(path, distilled)
    else:
        formats.write(distilled, path, form)
    about = distilled.metadata
    return {
        "out": str(path),
        "step": about["step"],
        "images": len(distilled.images),
        "validation_accuracy": about["validation_accuracy"],
        "test_accuracy": about["test_accuracy"],
    }


def _exported(run: Path, step: int | None, form: formats.Format) -> Path:
    is_file = run.is_file() or cards.is_shipped(run)
    folder, stem = (run.parent, run.stem) if is_file else (run, Path(DISTILLED).stem)
    stem += "" if step is None else f"_{step}"
    endings = {"npz": ".npz", "torch": ".pt", "folder": "_pictures", "huggingface": "_dataset"}
    return folder / (stem + endings[form])


def _of_run(run: Path, step: int | None, data_dir: Path | None) -> tuple[DistilledSet, Transform]:
    """Return the set of a run's checkpoint, with the test accuracy where it is known, and the fitted preprocessing."""
    check(run)
    of_run = origin(run)
    dataset = data.load(of_run.data, place_of_data(run, data_dir))
    transform = preprocess.fit(of_run.preprocess, dataset.train.images)
    distilled = _of_checkpoint(run, step, of_run, transform, dataset.train.digest(), dataset.class_names)
    about, finished = distilled.metadata, run / DISTILLED
    known = sets.load(finished).metadata if finished.exists() else {}
    about["test_accuracy"] = known.get("test_accuracy") if known.get("step") == about["step"] else None
    return distilled, transform
