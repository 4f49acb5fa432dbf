"""News of a run while it goes on: a callback of the user's, or a logger by name (`kip.runs.loggers`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kip.experiment import Experiment
    from kip.runs.loop import Result
    from kip.sets.distilled import DistilledSet


class Callback:
    """The base of callbacks: every method does nothing, and a subclass says what it wants to know.

    A callback reads what it is given and changes none of it. What it raises ends the run, which the same command
    resumes.

        class Best(kip.Callback):
            def on_export(self, distilled):
                print(distilled)

        kip.run(experiment, Path("runs/mine"), callbacks=[Best()])
    """

    def on_begin(self, experiment: Experiment, out: Path) -> None:
        """Be told of the run, before its first step or where it resumes."""

    def on_row(self, row: dict[str, Any]) -> None:
        """Be told of a line of metrics.jsonl: `step`, and `loss`, `validation_accuracy` and others where they are."""

    def on_export(self, distilled: DistilledSet) -> None:
        """Be told of a new best set, which distilled.npz now holds."""

    def on_end(self, result: Result) -> None:
        """Be told of the result."""


class Callbacks(Callback):
    """Several callbacks as one, told in their order."""

    def __init__(self, callbacks: Sequence[Callback]):
        self._callbacks = tuple(callbacks)

    def on_begin(self, experiment: Experiment, out: Path) -> None:
        """Tell all."""
        for callback in self._callbacks:
            callback.on_begin(experiment, out)

    def on_row(self, row: dict[str, Any]) -> None:
        """Tell all, each with a row of its own."""
        for callback in self._callbacks:
            callback.on_row(dict(row))

    def on_export(self, distilled: DistilledSet) -> None:
        """Tell all."""
        for callback in self._callbacks:
            callback.on_export(distilled)

    def on_end(self, result: Result) -> None:
        """Tell all."""
        for callback in self._callbacks:
            callback.on_end(result)
