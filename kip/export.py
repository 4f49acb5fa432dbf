"""The distilled set as one `.npz` file that NumPy alone can load.

| array | shape, dtype | what |
|---|---|---|
| images | (n, H, W, C) float32 | pixel space, 1.0 is white; learned images may lie somewhat outside [0, 1] |
| images_preprocessed | (n, H, W, C) float32 | what the kernel saw: train on these for the published numbers |
| labels | (n, c) float32 | mean-centred one-hot, probabilities, or learned |
| class_index | (n,) int64 | the class that each image started from |
| image_statistics | (n, 2) float64 | mean and scale put back in `images`, where preprocessing normalises each image |
| metadata | JSON string | experiment, preprocessing with its parameters, step, accuracies, versions |

`metadata` says with `deployment_steps` how long to train a network on the set, where its method finds that out.

Layer normalisation (ZCA `zca` and `zca_notebook`) loses each image's mean and scale, and a learned image has none of
its own: `images` is inverted with those of the natural image that it started from.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kip import config
from kip.distill import State
from kip.errors import DataError
from kip.experiment import Experiment
from kip.files import atomic_write
from kip.preprocess import Transform

FORMAT = 1
VERSIONS_OF = ("kip", "jax", "neural-tangents", "numpy", "scipy", "optax")


class DistilledSet(NamedTuple):
    """A distilled set in memory; the fields are those of the file, `metadata` parsed."""

    images: np.ndarray
    images_preprocessed: np.ndarray
    labels: np.ndarray
    class_index: np.ndarray
    image_statistics: np.ndarray
    metadata: dict[str, Any]

    @property
    def experiment(self) -> Experiment:
        """The experiment that the set came from."""
        return config.from_json(Experiment, json.dumps(self.metadata["experiment"]), source="metadata of the set")


def distilled_set(
    experiment: Experiment,
    transform: Transform,
    state: State,
    *,
    train_digest: str,
    validation_accuracy: float | None,
    test_accuracy: float | None,
) -> DistilledSet:
    """Make the set of a state: preprocessing inverted, metadata filled in.

    The metadata has no time, path or host in it: equal runs give equal files.

    Args:
        experiment: what was run.
        transform: its fitted preprocessing.
        state: the images and labels.
        train_digest: `Split.digest` of the train split, by which evaluation knows its data set again.
        validation_accuracy: KRR accuracy, a fraction; None where the state was saved between checkpoints.
        test_accuracy: likewise; None while the run goes on.
    """
    metadata = {
        "format": FORMAT,
        "experiment": experiment.to_dict(),
        "train_sha256": train_digest,
        "preprocess": transform.describe(),
        "pixels": "images: 1.0 is the value 255; preprocessing inverted with image_statistics (mean, scale)",
        "step": int(state.step),
        "validation_accuracy": validation_accuracy,
        "test_accuracy": test_accuracy,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in VERSIONS_OF}},
    }
    if np.ndim(state.deployment_steps) == 0:
        metadata["deployment_steps"] = int(state.deployment_steps)
    images = transform.invert(state.images, state.statistics)
    return DistilledSet(
        np.asarray(images, np.float32), state.images, state.labels, state.class_index, state.statistics, metadata
    )


def save(path: Path, distilled: DistilledSet) -> None:
    """Write the set, atomically.

    Raises:
        OutputError: if the file cannot be written.
    """
    arrays = distilled._replace(metadata=json.dumps(distilled.metadata, sort_keys=True))._asdict()
    atomic_write(path, lambda file: np.savez(file, **arrays))


def load(path: Path) -> DistilledSet:
    """Read a distilled set.

    Raises:
        DataError: if the file is missing, damaged, lacks an array or metadata, or was written by a later version.
    """
    remedy = "`kip distill` writes RUN/distilled.npz, and `kip export RUN` writes it again from the run's checkpoints."
    path = Path(path)
    if not path.exists():
        raise DataError(f"no distilled set at {path}", remedy=remedy)
    if not zipfile.is_zipfile(path):  # numpy would take it for a pickle, and advise to unpickle it
        raise DataError(f"{path} is not a distilled set", got="no whole .npz archive", remedy=remedy)
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = set(DistilledSet._fields) - set(file.files)
            if missing:
                raise DataError(f"{path} is not a distilled set", got=f"no {', '.join(sorted(missing))}", remedy=remedy)
            arrays = {name: file[name] for name in DistilledSet._fields}
        metadata = dict(json.loads(str(arrays.pop("metadata"))))
    except DataError:
        raise
    except Exception as error:  # what numpy and zipfile raise on damaged files is no closed list
        raise DataError(f"{path} cannot be read as a distilled set", got=error, remedy=remedy) from None
    if metadata.get("format") != FORMAT:
        raise DataError(
            f"format of {path}", got=metadata.get("format"), expected=str(FORMAT), remedy="Use the kip that wrote it."
        )
    if lacking := {"experiment", "train_sha256", "preprocess", "step"} - metadata.keys():
        raise DataError(f"metadata of {path}", got=f"no {', '.join(sorted(lacking))}", remedy=remedy)
    return DistilledSet(**arrays, metadata=metadata)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
