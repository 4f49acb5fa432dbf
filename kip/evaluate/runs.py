"""The distilled sets of a run: the exported one, and those of its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kip import checkpoint, data, export, preprocess
from kip.errors import ConfigError
from kip.experiment import load as load_experiment
from kip.export import DistilledSet

EXPORTED = "distilled.npz"


def name(path: Path) -> str:
    """Return what tables call a set: its run's name, or its file's."""
    return path.parent.name if path.name == EXPORTED else path.stem


def sets(path: Path, checkpoints: Sequence[int] = (), data_dir: Path | None = None) -> list[DistilledSet]:
    """Return the set of a file, of a run, or those of a run's checkpoints.

    Args:
        path: an .npz file, or a run's folder.
        checkpoints: steps of the run; empty: the exported set.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR; needed for checkpoints only.

    Raises:
        ConfigError: if checkpoints are asked of a file, or the folder is no run.
        DataError: if the set cannot be read.
        CheckpointError: if the run has no checkpoint of such a step.
    """
    if not checkpoints:
        return [export.load(path / EXPORTED if path.is_dir() else path)]
    if not (path / "config.json").is_file():
        raise ConfigError("checkpoints", got=f"{path}, which is no run's folder", expected="the folder of a run")
    experiment = load_experiment(str(path / "config.json"))
    dataset = data.load(experiment.data, data_dir)
    transform, digest = preprocess.fit(experiment.preprocess, dataset.train.images), dataset.train.digest()
    found = []
    for step in checkpoints:
        state, progress = checkpoint.read(path / "checkpoints", step)
        known = {record.step: record.validation_accuracy for record in progress.records}
        found.append(
            export.distilled_set(
                experiment,
                transform,
                state,
                train_digest=digest,
                validation_accuracy=known.get(step),
                test_accuracy=None,
            )
        )
    return found
