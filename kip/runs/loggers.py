"""Loggers by name: scalars and image grids for TensorBoard, Weights & Biases or Trackio. The only importer of these.

| name | writes |
|---|---|
| `tensorboard` | RUN/tensorboard, for `tensorboard --logdir RUN` |
| `wandb` | to the service, or with WANDB_MODE=offline to a folder of its own |
| `trackio` | to its own folder, for `trackio show` |

Each needs the extra of its name: `pip install 'kip-distillation[NAME]'`.

Every number of a line of metrics.jsonl is a scalar under its name, at its step. Each new best set is an image grid, a
row per class, drawn as in images.png.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kip.errors import MissingExtraError
from kip.experiment import Experiment
from kip.pictures.appearance import displayed, shown_class
from kip.runs.callbacks import Callback
from kip.runs.loop import Result
from kip.sets.distilled import DistilledSet
from kip.storage.json_files import is_number

LoggerName = Literal["tensorboard", "wandb", "trackio"]
MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}
PROJECT = "kip"
SHOWN = 10
"""Images of a class in a grid."""


def loggers(names: Sequence[LoggerName]) -> list[Callback]:
    """Return the loggers of these names.

    Raises:
        MissingExtraError: if the library of one is not installed.
    """
    return [TensorBoard() if name == "tensorboard" else Tracker(name) for name in dict.fromkeys(names)]


class TensorBoard(Callback):
    """Writes event files into RUN/tensorboard."""

    def __init__(self) -> None:
        self._module = _imported("tensorboard")

    def on_begin(self, experiment: Experiment, out: Path) -> None:
        """Open the event file, and write the configuration as text."""
        self._writer = self._module.SummaryWriter(str(out / "tensorboard"))
        lines = json.dumps(experiment.to_dict(), indent=1).splitlines()
        text = "\n".join(f"    {line}" for line in lines)  # a block, in Markdown
        self._writer.add_text("configuration", text)

    def on_row(self, row: dict[str, Any]) -> None:
        """Write the numbers of a row."""
        for name, value in _scalars(row).items():
            self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()

    def on_export(self, distilled: DistilledSet) -> None:
        """Write the images as a grid."""
        self._writer.add_image("distilled", grid(distilled), distilled.metadata["step"], dataformats="HWC")
        self._writer.flush()

    def on_end(self, result: Result) -> None:
        """Write the test accuracies, and close the file."""
        for name, value in _scalars(result._asdict()).items():
            if name.endswith("accuracy"):
                self._writer.add_scalar(f"result/{name}", value, result.exported_step)
        self._writer.close()


class Tracker(Callback):
    """Writes to Weights & Biases or to Trackio, which are used alike."""

    def __init__(self, name: LoggerName):
        self._module = _imported(name)

    def on_begin(self, experiment: Experiment, out: Path) -> None:
        """Begin a run of theirs, named after the run's folder."""
        self._run = self._module.init(project=PROJECT, name=out.name, config=experiment.to_dict())

    def on_row(self, row: dict[str, Any]) -> None:
        """Write the numbers of a row."""
        self._module.log(_scalars(row), step=row["step"])

    def on_export(self, distilled: DistilledSet) -> None:
        """Write the images as a grid."""
        picture = self._module.Image((grid(distilled) * 255).round().astype(np.uint8))
        self._module.log({"distilled": picture}, step=distilled.metadata["step"])

    def on_end(self, result: Result) -> None:
        """Write the test accuracies, and end their run."""
        numbers = {f"result/{name}": value for name, value in _scalars(result._asdict()).items()}
        self._module.log(numbers, step=result.steps)
        self._module.finish()


def grid(distilled: DistilledSet) -> np.ndarray:
    """Return a set's images as one, (height, width, 3) in [0, 1]: a row per class, white between them."""
    _, height, width, _ = distilled.images.shape
    representations = distilled.origin.labels_are == "representations"
    classes = distilled.class_index if representations else shown_class(distilled.labels, distilled.class_index)
    rows = [np.flatnonzero(classes == number)[:SHOWN] for number in np.unique(classes)]
    columns = max(map(len, rows))
    picture = np.ones((len(rows) * (height + 1) + 1, columns * (width + 1) + 1, 3))
    for row, members in enumerate(rows):
        for column, index in enumerate(members):
            top, left = row * (height + 1) + 1, column * (width + 1) + 1
            picture[top : top + height, left : left + width] = displayed(distilled.images[index])
    return picture


def _scalars(row: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if is_number(value) and math.isfinite(value)}


def _imported(name: LoggerName) -> Any:
    try:
        return importlib.import_module(MODULES[name])
    except ImportError as error:
        raise MissingExtraError(
            f"{MODULES[name]} is not installed",
            got=error,
            remedy=f"Run `pip install 'kip-distillation[{name}]'`, or leave out --log {name}.",
        ) from error
